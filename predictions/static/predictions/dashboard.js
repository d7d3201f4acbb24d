// The dashboard's dialogs, and charts that draw themselves anew. Numbers are refreshed by htmx.
const CHARTS_EVERY_MS = 30000;

document.addEventListener("click", (event) => {
  const ask = event.target.closest("button.agent-ask");
  if (ask) {
    event.preventDefault();
    document.getElementById(`ask-${ask.value}`).showModal();
  }
  const close = event.target.closest("button.agent-close");
  if (close) {
    event.preventDefault();
    close.closest("dialog").close();
  }
});

async function refreshCharts() {
  const place = document.querySelector("[data-charts]");
  const answer = await fetch(place.dataset.charts, { headers: { Accept: "application/json" } });
  if (!answer.ok) return;
  for (const [name, told] of Object.entries(await answer.json())) {
    const chart = Chart.getChart(document.querySelector(`#chart-${name} canvas`));
    chart.data.labels = told.labels;
    told.datasets.forEach((set, index) => (chart.data.datasets[index].data = set.data));
    chart.update();
  }
}

setInterval(() => document.hidden || refreshCharts().catch(() => {}), CHARTS_EVERY_MS);
