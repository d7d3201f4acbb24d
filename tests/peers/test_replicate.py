"""Cog's real runtime (0.23.1) behind a gateway like Replicate's; the agent compared with the real client (1.0.7)."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from predictions.models import Task
from tests.helpers.api import assert_error
from tests.helpers.servers import Server
from tests.helpers.waiting import until
from tests.peers.agent import Agent, NewAgent
from tests.peers.replicate_gateway import KEY, Gateway, Prediction, Version
from tests.peers.replicate_peers import COG, REPLICATE, Cog, outcomes

pytestmark = pytest.mark.slow

ANSWERS, STREAMS, COLD = "a" * 64, "b" * 64, "c" * 64
SAYS: dict[str, dict[str, Any]] = {
    "an object": {"say": {"text": "größer 🌷\nzweite Zeile", "nested": [1, None, 2.5]}},
    "a text": {"say": "done"},
    "a list": {"say": [1, "two", {"three": 3}]},
    "a number": {"say": 41.5},
    "a truth": {"say": False},
    "nothing": {"say": None},
    "an error": {"mood": "raise", "say": "no such colour: mauve"},
    "an error of several lines": {
        "mood": "raise",
        "say": 'boom\nTraceback (most recent call last):\n  File "/src/a.py"',
    },
    "a wrong input": {"seconds": "soon"},
}
PIECES = {
    "texts": {"pieces": ["to", "ken", " größer 🌷\n", "two\nlines"], "pause": 0.1},
    "no piece": {"pieces": []},
    "a raised error": {"pieces": ["to", "ken"], "raise_at": 1, "pause": 0.3},
}
LOST = "Prediction failed: Generator iteration error: ValueError: out of memory"

RealOutcomes = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def cogs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Cog]]:
    """A model that answers, and one that yields."""
    COG.ready()
    REPLICATE.ready()
    started = {
        ANSWERS: Cog(tmp_path_factory.mktemp("answers"), "Answers"),
        STREAMS: Cog(tmp_path_factory.mktemp("streams"), "Streams"),
    }
    try:
        for cog in started.values():
            cog.start()
        yield started
    finally:
        for cog in started.values():
            cog.kill()


@pytest.fixture(scope="module")
def shared_gateway(cogs: dict[str, Cog]) -> Iterator[Gateway]:
    """COLD is a version that never comes up."""
    server = Gateway(
        Version(ANSWERS, "ann/answers", cogs[ANSWERS].address),
        Version(STREAMS, "ann/streams", cogs[STREAMS].address, streams=True),
        Version(COLD, "ann/cold"),
    )
    yield server
    server.close()


@pytest.fixture
def gateway(shared_gateway: Gateway, cogs: dict[str, Cog]) -> Gateway:
    shared_gateway.forget()
    for cog in cogs.values():
        cog.close_gate()
    return shared_gateway


@pytest.fixture
def answers(gateway: Gateway, cogs: dict[str, Cog]) -> Cog:
    return cogs[ANSWERS]


@pytest.fixture
def streams(gateway: Gateway, cogs: dict[str, Cog]) -> Cog:
    return cogs[STREAMS]


@pytest.fixture(scope="module")
def real(shared_gateway: Gateway) -> RealOutcomes:
    """What Replicate's real client makes of the same gateway, models and inputs."""
    creates = {f"create {name}": {"how": "create", "version": ANSWERS, "input": one} for name, one in SAYS.items()}
    yields = {f"stream {name}": {"how": "stream", "version": STREAMS, "input": one} for name, one in PIECES.items()}
    others: RealOutcomes = {
        "iterator": {"how": "create", "version": STREAMS, "input": PIECES["texts"]},
        "run": {"how": "run", "model": "ann/answers", "input": SAYS["an object"]},
        "run an error": {"how": "run", "model": "ann/answers", "input": SAYS["an error"]},
        "stream without support": {"how": "stream", "version": ANSWERS, "input": SAYS["a text"]},
        "cancel": {"how": "cancel", "version": ANSWERS, "input": {"mood": "sleep", "seconds": 30}},
        "unknown version": {"how": "create", "version": "d" * 64, "input": {}},
        "wrong key": {"how": "list_all", "key": "wrong"},
    }
    found = outcomes(shared_gateway, {**creates, **yields, **others})
    found["list"] = {
        "theirs": outcomes(shared_gateway, {"it": {"how": "list_all"}})["it"],
        "ours": list(reversed(shared_gateway.predictions)),
    }
    return found


@pytest.fixture
def here(agent: NewAgent, gateway: Gateway) -> Callable[..., Agent]:
    """Starts an agent in front of the gateway."""

    def start(model: str = ANSWERS, *, worker: bool = False, **environment: str) -> Agent:
        return agent("", worker=worker, **{**platform(gateway, model), **environment})

    return start


NewHere = Callable[..., Agent]


def platform(gateway: Gateway, model: str) -> dict[str, str]:
    return {
        "ML_PLATFORM": "replicate",
        "REPLICATE_ADDRESS": gateway.address,
        "REPLICATE_APIKEY": KEY,
        "REPLICATE_MODEL_ID": model,
    }


def only_prediction(gateway: Gateway) -> Prediction:
    """The one prediction there is, once there is one."""
    until(lambda: gateway.predictions)
    (prediction,) = gateway.predictions.values()
    return prediction


def upstream_of(task_id: str) -> tuple[str, str]:
    return Task.objects.values_list("upstream_id", "upstream_cancel").get(pk=task_id)


# --- What Replicate's real client makes of it


def test_the_gateway_is_replicate_to_its_real_client(real: RealOutcomes) -> None:
    """The other tests compare with these answers, so they must be right."""
    statuses = {name: real[f"create {name}"].get("status") for name in SAYS}
    failing = dict.fromkeys(("an error", "an error of several lines"), "failed")
    assert statuses == {**dict.fromkeys(SAYS, "succeeded"), **failing, "a wrong input": None}
    assert real["create an object"]["output"] == SAYS["an object"]["say"] == real["run"]["output"]
    assert real["create an error"]["error"].endswith("ValueError: no such colour: mauve")
    assert (real["run an error"]["exception"], real["run an error"]["words"]) == (
        "ModelError",
        real["create an error"]["error"],
    )
    assert (real["create a wrong input"]["exception"], real["create a wrong input"]["http_status"]) == (
        "ReplicateError",
        422,
    )
    assert real["stream texts"]["pieces"] == PIECES["texts"]["pieces"] == real["iterator"]["output"]
    assert real["stream texts"]["logs"], "the model's prints arrive between them"
    failed = real["stream a raised error"]
    assert (failed["pieces"], failed["status"], json.loads(failed["error"])["detail"]) == (["to"], "failed", LOST)
    assert "does not support streaming" in real["stream without support"]["words"]
    assert real["cancel"] == {"answered": "canceled", "status": "canceled"}
    assert (real["unknown version"]["http_status"], real["wrong key"]["http_status"]) == (422, 401)
    assert real["list"]["theirs"] == real["list"]["ours"] != []


# --- Predictions


def test_every_prediction_ends_as_for_the_real_client(here: NewHere, gateway: Gateway, real: RealOutcomes) -> None:
    agent = here(worker=True)
    with ThreadPoolExecutor(len(SAYS)) as pool:
        ids = {name: agent.submit("m", inputs) for name, inputs in SAYS.items()}
        replies = dict(zip(SAYS, pool.map(lambda inputs: agent.predict("m", inputs), SAYS.values()), strict=True))
    for name in SAYS:
        theirs, reply, task = real[f"create {name}"], replies[name], agent.ended(ids[name])
        if theirs.get("status") == "succeeded":
            assert (reply.status_code, reply.json()["status"]) == (200, "succeeded"), name
            assert (reply.json()["outputs"], task["outputs"]) == (theirs["output"],) * 2, name
            assert (task["status"], task["error_info"]) == ("succeeded", ""), name
            seconds = gateway.predictions[upstream_of(ids[name])[0]].told["metrics"]["predict_time"]
            assert task["running_time"] == f"{seconds:.6f}s", name
        elif theirs.get("status") == "failed":
            sentence = theirs["error"].splitlines()[0]
            assert_error(reply, 502, "platform_error")
            assert (reply.json()["error"], task["error_info"]) == (sentence, sentence), name
            assert (task["status"], task["outputs"]) == ("failed", None), name
        else:
            assert_error(reply, 400, "invalid_inputs")
            assert reply.json()["error"] == task["error_info"] == '- seconds: "soon" is not of type "number"'
            assert reply.json()["error"] in theirs["words"]
    assert (gateway.count("POST"), gateway.count("POST", "/cancel")) == (2 * len(SAYS), 0)


def test_replicate_gets_one_prediction_with_only_the_input(here: NewHere, gateway: Gateway) -> None:
    secrets = {"Authorization": "Bearer of-the-caller", "apikey": "of-the-caller", "Cookie": "a=of-the-caller"}
    inputs = {"say": 1, "upload_webhook": "http://elsewhere.example/u/x/upload"}
    reply = here().predict("m", inputs, **{"X-Request-ID": "find-me"}, **secrets)
    assert reply.json()["outputs"] == 1
    assert [body for method, _, _, body in gateway.asked if method == "POST"] == [
        {"version": ANSWERS, "input": {"say": 1}}
    ]
    for _, _, headers, _ in gateway.asked:
        assert (headers["authorization"], headers["x-request-id"]) == (f"Bearer {KEY}", "find-me")
        assert "of-the-caller" not in str(headers)


@pytest.mark.parametrize("model", ["ann/answers", f"ann/answers:{ANSWERS}"])
def test_a_model_may_be_named(here: NewHere, gateway: Gateway, model: str) -> None:
    assert here(model).predict("m", {"say": "named"}).json()["outputs"] == "named"
    posted = [path for method, path, _, _ in gateway.asked if method == "POST"]
    assert posted == ["/v1/predictions" if ":" in model else "/v1/models/ann/answers/predictions"]


def test_the_pieces_of_an_iterator_are_a_list(here: NewHere, real: RealOutcomes) -> None:
    assert here(STREAMS).predict("m", PIECES["texts"]).json()["outputs"] == real["iterator"]["output"]


def test_a_throttled_creation_is_repeated_when_replicate_says(here: NewHere, gateway: Gateway) -> None:
    """The real client raises the 429; the agent waits as long as the answer says, within its deadline."""
    gateway.throttled = 1
    theirs = outcomes(gateway, {"it": {"how": "create", "version": ANSWERS, "input": {"say": 1}}})["it"]
    assert (theirs["exception"], theirs["http_status"]) == ("ReplicateError", 429)

    gateway.forget()
    gateway.throttled = gateway.busy_polls = 1
    agent = here(REPLICATE_REQUEST_TIMEOUT="10")
    began = time.monotonic()
    assert agent.predict("m", {"say": 1}).json()["outputs"] == 1
    assert time.monotonic() - began > 2, "the creation and a look were each told to wait for a second"
    assert (gateway.count("POST"), len(gateway.predictions)) == (2, 1)

    gateway.forget()
    gateway.throttled, gateway.retry_after = 1, "30"
    began = time.monotonic()
    reply = agent.predict("m", {"say": 1})
    assert_error(reply, 502, "platform_error")
    assert "429" in reply.json()["error"]
    print(f"\nrefused after {time.monotonic() - began:.1f} s: there is no sense in waiting beyond the deadline")
    assert (gateway.count("POST"), len(gateway.predictions)) == (1, 0)


def test_a_wrong_key_is_no_fault_of_the_callers(here: NewHere, gateway: Gateway) -> None:
    reply = here(REPLICATE_APIKEY="r8_WRONGWRONGWRONG").predict("m", {"say": 1})
    assert_error(reply, 502, "platform_error")
    assert "r8_" not in reply.text
    assert gateway.count("POST") == 1


# --- Streams


def streamed(agent: Agent, inputs: dict[str, Any], **headers: str) -> requests.Response:
    body = {"model_name": "m", "inputs": inputs}
    return agent.session.post(f"{agent.web.url}/v1/generate", json=body, headers=headers, stream=True, timeout=60)


def test_a_stream_has_the_pieces_the_real_client_gets(here: NewHere, real: RealOutcomes) -> None:
    agent = here(STREAMS)
    for name, inputs in PIECES.items():
        theirs = real[f"stream {name}"]
        with streamed(agent, inputs) as reply:
            messages = [json.loads(line) for line in reply.iter_lines()]
        task = Task.objects.get(pk=reply.headers["X-Task-ID"])
        if theirs["status"] == "failed":
            last = messages.pop()
            assert (last["code"], last["error"]) == ("platform_error", LOST)
            assert (task.status, task.error_info) == ("failed", LOST)
        else:
            assert (task.status, task.outputs) == ("succeeded", "".join(theirs["pieces"]))
        assert messages == [{"id": number, "data": piece} for number, piece in enumerate(theirs["pieces"])], name


def test_pieces_come_while_the_model_goes_on(here: NewHere, gateway: Gateway, streams: Cog) -> None:
    with streamed(here(STREAMS), {"pieces": ["a", "b"], "hang": True}) as reply:
        lines = reply.iter_lines(chunk_size=1)
        assert [json.loads(next(lines))["data"] for _ in range(2)] == ["a", "b"]
        assert only_prediction(gateway).status == "processing"
        streams.open_gate()
        assert list(lines) == []
    assert Task.objects.get().status == "succeeded"


def test_a_model_that_cannot_stream_is_unsupported(here: NewHere, gateway: Gateway) -> None:
    with streamed(here(), {"mood": "sleep", "seconds": 30}) as reply:
        assert_error(reply, 400, "unsupported")
    assert only_prediction(gateway).status in ("canceled", "aborted"), "it may not have begun yet"
    assert (Task.objects.get().status, Task.objects.get().upstream_cancel) == ("failed", "canceled")


@pytest.mark.parametrize("how", ["leaves", "cancels"])
def test_a_stream_that_is_not_wanted_any_more_ends_the_model(
    here: NewHere, gateway: Gateway, streams: Cog, how: str
) -> None:
    agent = here(STREAMS)
    with streamed(agent, {"pieces": ["a"], "hang": True, "name": how}) as reply:
        lines = reply.iter_lines(chunk_size=1)
        assert json.loads(next(lines))["data"] == "a"
        began = time.monotonic()
        task_id = reply.headers["X-Task-ID"]
        if how == "cancels":
            assert agent.cancel(task_id).status_code == 202
            assert json.loads(next(lines))["code"] == "canceled"
    prediction = only_prediction(gateway)
    until(lambda: prediction.status == "canceled")
    took = time.monotonic() - began
    until(lambda: how in streams.events("stopped"))
    until(lambda: upstream_of(task_id)[1])
    assert (agent.ended(task_id)["status"], upstream_of(task_id)) == ("canceled", (prediction.id, "canceled"))
    print(f"\nthe prediction was canceled {took:.1f} s after the caller {how}")


# --- Time limits


def test_at_the_deadline_the_prediction_is_canceled(here: NewHere, gateway: Gateway, answers: Cog) -> None:
    agent = here(worker=True, REPLICATE_REQUEST_TIMEOUT="1.5")
    began = time.monotonic()
    assert_error(agent.predict("m", {"mood": "sleep", "seconds": 60, "name": "sync"}), 504, "platform_timeout")
    assert time.monotonic() - began > 1.4
    task = agent.ended(agent.submit("m", {"mood": "sleep", "seconds": 60, "name": "async"}))
    assert (task["status"], task["error_info"]) == ("failed", "the platform did not answer in time")
    assert [one.status for one in gateway.predictions.values()] == ["canceled", "canceled"]
    assert set(Task.objects.values_list("upstream_cancel", flat=True)) == {"canceled"}
    until(lambda: {"sync", "async"} <= set(answers.events("stopped")))


def test_a_prediction_that_never_starts_is_canceled_too(here: NewHere, gateway: Gateway) -> None:
    agent = here(COLD, REPLICATE_REQUEST_TIMEOUT="1")
    assert_error(agent.predict("m", {"say": 1}), 504, "platform_timeout")
    assert (only_prediction(gateway).status, Task.objects.get().upstream_cancel) == ("aborted", "canceled")


# --- Cancelling


def test_a_running_task_is_canceled_from_another_process(here: NewHere, gateway: Gateway, answers: Cog) -> None:
    agent = here(worker=True)
    task_id = agent.submit("m", {"mood": "sleep", "seconds": 60, "name": "far"})
    until(lambda: "far" in answers.events("started"))
    prediction = only_prediction(gateway)
    until(lambda: upstream_of(task_id)[0] == prediction.id)
    began = time.monotonic()
    reply = agent.cancel(task_id)
    assert (reply.status_code, reply.json()) == (202, {"id": task_id})
    assert agent.task(task_id)["status"] == "canceled"
    until(lambda: prediction.status == "canceled")
    took = time.monotonic() - began
    until(lambda: "far" in answers.events("stopped"))
    until(lambda: upstream_of(task_id)[1] == "canceled")
    assert_error(agent.cancel(task_id), 409, "already_finished")
    assert (gateway.count("POST"), gateway.count("POST", "/cancel")) == (1, 1)
    time.sleep(0.5)
    assert (agent.task(task_id)["status"], agent.task(task_id)["outputs"]) == ("canceled", None)
    print(f"\nthe prediction was canceled after {took:.2f} s")


def test_a_sync_prediction_is_canceled_by_its_id(here: NewHere, gateway: Gateway, answers: Cog) -> None:
    agent = here()
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(agent.predict, "m", {"mood": "sleep", "seconds": 60, "name": "near"})
        until(lambda: "near" in answers.events("started"))
        began = time.monotonic()
        task_id = Task.objects.get().pk
        assert agent.cancel(task_id).status_code == 202
        assert_error(reply.result(20), 409, "canceled")
    print(f"\nthe caller was answered {time.monotonic() - began:.2f} s after the cancel")
    prediction = only_prediction(gateway)
    until(lambda: "near" in answers.events("stopped"))
    assert (prediction.status, upstream_of(task_id)) == ("canceled", (prediction.id, "canceled"))
    assert agent.task(task_id)["status"] == "canceled"


def test_a_prediction_canceled_by_another_client_fails(here: NewHere, gateway: Gateway, answers: Cog) -> None:
    agent = here(worker=True)
    task_id = agent.submit("m", {"mood": "sleep", "seconds": 60, "name": "theirs"})
    until(lambda: "theirs" in answers.events("started"))
    prediction = only_prediction(gateway)
    assert outcomes(gateway, {"it": {"how": "cancel_that", "id": prediction.id}})["it"] == "canceled"
    task = agent.ended(task_id)
    assert (task["status"], task["error_info"]) == ("failed", "the prediction was canceled on the replicate platform")
    assert gateway.count("POST", "/cancel") == 1


# --- Workers that are lost


def test_a_second_attempt_comes_back_to_the_prediction_that_still_runs(
    here: NewHere, serve: Callable[..., Server], gateway: Gateway, answers: Cog
) -> None:
    agent = here(worker=True)
    assert agent.worker is not None
    task_id = agent.submit("m", {"mood": "gate", "name": "kept"})
    until(lambda: "kept" in answers.events("started"))
    prediction = only_prediction(gateway)
    until(lambda: upstream_of(task_id)[0] == prediction.id)
    agent.worker.kill()
    killed_at = time.monotonic()
    polls = gateway.count("GET", prediction.id)
    serve("worker", **platform(gateway, ANSWERS))
    until(lambda: gateway.count("GET", prediction.id) > polls, seconds=60)
    took = time.monotonic() - killed_at
    until(lambda: agent.task(task_id)["attempt"] == 2)
    assert (agent.task(task_id)["status"], prediction.status) == ("running", "processing")
    threading.Timer(0.5, answers.open_gate).start()
    task = agent.ended(task_id)
    assert (task["status"], task["outputs"], task["attempt"]) == ("succeeded", {"went": "through"}, 2)
    assert upstream_of(task_id) == (prediction.id, "")
    assert (gateway.count("POST"), len(gateway.predictions), gateway.count("POST", "/cancel")) == (1, 1, 0)
    assert answers.events("started").count("kept") == 1
    print(f"\nthe agent polled the prediction again {took:.0f} s after the kill")
