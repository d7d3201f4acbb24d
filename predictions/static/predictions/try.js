// The "Try it" page: asks as an API caller would, with the session of the admin, and shows what comes.
const form = document.getElementById("try");
const statusLine = document.getElementById("try-status");
const answerBox = document.getElementById("try-answer");
const wrong = document.getElementById("try-wrong");
const taskLink = document.getElementById("try-task");
const cancelButton = document.querySelector("button[name=cancel]");
const ROUTES = { sync: "/v1/predict", async: "/async/v1/predict", stream: "/v1/generate" };
const ENDED = ["succeeded", "failed", "canceled"];
const LOOK_EVERY_MS = 500;
let turn = 0; // an answer of an earlier run is not shown over a later one
let taskId = "";

function question() {
  const inputs = JSON.parse(form.inputs.value);
  if (inputs === null || typeof inputs !== "object" || Array.isArray(inputs)) throw new Error("they must be an object");
  const version = form.model_version.value.trim();
  return { model_name: form.model_name.value.trim(), ...(version && { model_version: version }), inputs };
}

function reveal(element, isShown) {
  element.style.display = isShown ? "" : "none";
}

function complain(sentence) {
  wrong.textContent = sentence;
  reveal(wrong, sentence);
}

function ask(route, options = {}) {
  return fetch(form.dataset.root + route, {
    ...options,
    headers: {
      "Content-Type": "application/json",
      "X-CSRFToken": form.csrfmiddlewaretoken.value,
      UID: encodeURIComponent(form.dataset.user),
    },
  });
}

function show(told, text) {
  statusLine.textContent = told;
  if (text !== undefined) answerBox.textContent = text;
}

function nameTask(id) {
  taskId = id;
  taskLink.href = `${form.dataset.tasks}${id}/change/`;
  reveal(taskLink, id);
  reveal(cancelButton, id);
}

function over(told, text) {
  reveal(cancelButton, false);
  show(told, text);
}

async function follow(mine) {
  while (mine === turn) {
    const answer = await ask(`/task/${taskId}`);
    const task = await answer.json();
    const text = JSON.stringify(task, null, 2);
    if (!answer.ok || ENDED.includes(task.status)) return over(task.status || task.error, text);
    show(task.status, text);
    await new Promise((done) => setTimeout(done, LOOK_EVERY_MS));
  }
}

async function relay(answer, mine) {
  nameTask(answer.headers.get("X-Task-ID"));
  show("streaming");
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (mine !== turn) return reader.cancel();
    if (done) return follow(mine).then(() => {});
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const message = JSON.parse(line);
      answerBox.textContent += message.data;
      if (message.error) complain(message.error);
    }
  }
}

async function run(event) {
  event.preventDefault();
  const mine = ++turn;
  complain("");
  let body;
  try {
    body = JSON.stringify(question());
  } catch (error) {
    return complain(`The inputs are not right: ${error.message}`);
  }
  nameTask("");
  show("asking…", "");
  const how = form.how.value;
  const began = performance.now();
  try {
    const answer = await ask(ROUTES[how], { method: "POST", body });
    if (mine !== turn) return;
    if (how === "stream" && answer.ok) return await relay(answer, mine);
    const told = await answer.json();
    if (mine !== turn) return;
    if (told.id) nameTask(told.id);
    if (answer.ok && how === "async") return await follow(mine);
    const seconds = ((performance.now() - began) / 1000).toFixed(3);
    over(`${answer.status} ${told.status || told.code} after ${seconds} s`, JSON.stringify(told, null, 2));
  } catch (error) {
    over(`No answer: ${error.message}`);
  }
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function curl() {
  const how = form.how.value;
  const url = `${location.origin}${ROUTES[how]}`;
  const flags = how === "stream" ? "-N " : "";
  return `curl ${flags}${url} -H 'apikey: YOUR-KEY' -H 'Content-Type: application/json' -d ${quoted(JSON.stringify(question()))}`;
}

// Choosing a model replaces an unedited example by that model's example inputs.
const examples = JSON.parse(form.dataset.examples);
const asText = (inputs) => JSON.stringify(inputs, null, 2);
form.model_name.addEventListener("change", () => {
  const chosen = examples[form.model_name.value.trim()];
  const isUnedited = Object.values(examples).some((inputs) => asText(inputs) === form.inputs.value);
  if (chosen && isUnedited) form.inputs.value = asText(chosen);
});

complain("");
nameTask("");
form.addEventListener("submit", run);
form.querySelector("button[name=copy]").addEventListener("click", async (event) => {
  event.preventDefault();
  try {
    const text = curl();
    answerBox.textContent = text;
    show("As curl:");
    await navigator.clipboard?.writeText(text);
  } catch (error) {
    complain(`The inputs are not right: ${error.message}`);
  }
});
cancelButton.addEventListener("click", async (event) => {
  event.preventDefault();
  const answer = await ask(`/cancel/${taskId}`, { method: "POST" });
  if (!answer.ok) complain((await answer.json()).error);
});
