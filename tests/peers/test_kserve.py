"""The agent in front of KServe's own model server (0.21.0)."""

import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from platforms import Level
from predictions.models import Task
from tests.helpers import makers
from tests.helpers.api import assert_error
from tests.helpers.waiting import until
from tests.peers.agent import FLOWER, Agent, NewAgent
from tests.peers.model_server import ModelServer

pytestmark = pytest.mark.slow

NewModelServer = Callable[..., ModelServer]


# --- Predictions


def test_a_flower_is_classified_by_a_real_model_server(agent: NewAgent, kserve: ModelServer) -> None:
    flowers = [FLOWER, [6.7, 3.0, 5.2, 2.3], [5.9, 2.8, 4.3, 1.3]]
    response = agent(kserve.address).predict("iris", {"instances": flowers}, UID="ann")
    assert response.status_code == 200, response.text
    task = response.json()
    assert (task["status"], task["outputs"], task["error_info"]) == ("succeeded", {"predictions": [0, 2, 1]}, "")
    assert (task["model_name"], task["platform"], task["attempt"]) == ("iris", "kserve", 1)
    assert 0 < float(task["running_time"].rstrip("s")) < 5
    assert Task.objects.get().user_id == "ann"
    assert [call["model"] for call in kserve.calls()] == ["iris"]


def test_an_async_flower_is_classified_by_a_worker(agent: NewAgent, kserve: ModelServer) -> None:
    here = agent(kserve.address, worker=True)
    ids = [here.submit("iris", {"instances": [FLOWER]}) for _ in range(10)]
    tasks = [here.ended(task_id) for task_id in ids]
    assert [(task["status"], task["outputs"]) for task in tasks] == [("succeeded", {"predictions": [0]})] * 10
    assert len(kserve.calls()) == 10
    refused = here.ended(here.submit("iris", {"instances": [[1.0, 2.0]]}))
    assert (refused["status"], refused["outputs"]) == ("failed", None)
    assert refused["error_info"] == "X has 2 features, but SVC is expecting 4 features as input."


def test_a_real_model_server_says_whether_a_model_is_ready(kserve: ModelServer) -> None:
    platform = makers.kserve(kserve.address)
    assert platform.check("iris", makers.call()).level is Level.OK
    unknown = platform.check("nope", makers.call())
    assert (unknown.level, "knows no nope" in unknown.message) == (Level.PROBLEM, True)
    assert platform.check("", makers.call()).level is Level.OK
    assert kserve.calls() == []


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ({"mood": "text"}, "quite well, thank you"),
        ({"mood": "text", "text": "größer 🌷\nzweite Zeile"}, "größer 🌷\nzweite Zeile"),
        ({"mood": "nothing"}, None),
        ({"mood": "number"}, 41.5),
        ({"mood": "list"}, [1, "two", None]),
        ({"mood": "not a number"}, {"scores": [1.5, None, None, None]}),
        ({"mood": "raw", "raw": '{"scores": [1.5, NaN, -Infinity]}'}, {"scores": [1.5, None, None]}),
    ],
)
def test_whatever_a_model_returns_becomes_the_outputs(
    agent: NewAgent, kserve: ModelServer, inputs: dict[str, Any], outputs: object
) -> None:
    here = agent(kserve.address)
    response = here.predict("moods", inputs)
    assert (response.status_code, response.json()["status"]) == (200, "succeeded")
    assert response.json()["outputs"] == outputs
    assert here.task(response.json()["id"])["outputs"] == outputs


def test_the_running_time_a_model_reports_is_taken_over(agent: NewAgent, kserve: ModelServer) -> None:
    here = agent(kserve.address)
    for reported, text in (
        ("0.014670133590698242s", "0.014670s"),
        ("3.981590270996094e-05s", "0.000040s"),
        (2, "2.000000s"),
    ):
        task = here.predict("moods", {"mood": "timed", "running_time": reported}).json()
        assert (task["outputs"], task["running_time"]) == ({"output": "done"}, text)


def test_many_predictions_wait_at_once(agent: NewAgent, kserve: ModelServer) -> None:
    here = agent(kserve.address)
    started = time.monotonic()
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: here.predict("moods", {"mood": "sleep", "seconds": 1}), range(50)))
    assert Counter(answer.status_code for answer in answers) == {200: 50}
    print(f"\n50 predictions of a second took {time.monotonic() - started:.1f} s")


# --- Requests that the model server gets


def test_the_model_server_sees_exactly_what_kserve_understands(agent: NewAgent, kserve: ModelServer) -> None:
    here = agent(kserve.address)
    response = here.predict(
        "moods",
        {"mood": "echo", "upload_webhook": "http://elsewhere.example/u/x/upload", "text": "ü"},
        **{
            "Content-Type": "application/json; charset=utf-8",
            "X-Request-ID": "find-me",
            "Authorization": "Bearer of-the-caller",
            "apikey": "of-the-caller",
            "Cookie": "session=of-the-caller",
            "ce-id": "1",
            "ce-specversion": "1.0",
            "ce-source": "caller",
            "ce-type": "caller",
        },
    )
    assert response.status_code == 200, response.text
    seen = kserve.calls()[0]["headers"]
    assert seen["content-type"] == "application/json"
    assert seen["host"] == "moods.default.example.com"
    assert seen["x-request-id"] == response.headers["X-Request-ID"] == "find-me"
    assert "of-the-caller" not in str(seen)
    assert not [name for name in seen if name.startswith("ce-")]
    inputs = kserve.calls()[0]["inputs"]
    assert (inputs["mood"], inputs["text"]) == ("echo", "ü")
    assert "elsewhere" not in str(inputs)


@pytest.mark.parametrize(
    ("settings", "host"),
    [
        ({"KSERVE_NAMESPACE": "ml", "KSERVE_CUSTOM_DOMAIN": "models.test"}, "moods.ml.models.test"),
        ({"KSERVE_HOST_TEMPLATE": "{model}-{namespace}.{domain}"}, "moods-default.example.com"),
        (
            {"KSERVE_HOST_TEMPLATE": "{model}-predictor.{namespace}.svc.cluster.local"},
            "moods-predictor.default.svc.cluster.local",
        ),
    ],
)
def test_the_host_header_follows_the_template(
    agent: NewAgent, kserve: ModelServer, settings: dict[str, str], host: str
) -> None:
    response = agent(kserve.address, **settings).predict("moods", {"mood": "echo"})
    assert response.json()["outputs"]["headers"]["host"] == host


def test_a_worker_sends_the_same_request_as_web(agent: NewAgent, kserve: ModelServer) -> None:
    here = agent(kserve.address, worker=True)
    here.ended(here.submit("moods", {"mood": "echo"}))
    assert here.predict("moods", {"mood": "echo"}).status_code == 200
    asynchronous, synchronous = (dict(call["headers"]) for call in kserve.calls())
    for headers in (asynchronous, synchronous):
        headers.pop("x-request-id", "")
        headers.pop("content-length")  # the upload addresses differ
    assert asynchronous == synchronous


def test_the_request_id_reaches_the_model_from_a_worker_too(agent: NewAgent, kserve: ModelServer) -> None:
    here = agent(kserve.address, worker=True)
    response = here.post("/async/v1/predict", "moods", {"mood": "echo"}, **{"X-Request-ID": "find-me"})
    headers = here.ended(response.json()["id"])["outputs"]["headers"]
    assert headers.get("x-request-id") == "find-me"


# --- Errors


def test_every_error_of_a_model_server_has_its_answer(agent: NewAgent, kserve: ModelServer) -> None:
    here = agent(kserve.address)

    def refused(status: int, code: str, model: str, inputs: dict[str, Any], *words: str) -> str:
        response = here.predict(model, inputs)
        assert_error(response, status, code)
        sentence: str = response.json()["error"]
        assert all(word in sentence for word in words), sentence
        task = Task.objects.latest("created_at")
        assert (task.status, task.error_info) == ("failed", sentence)
        return sentence

    features = "X has 2 features, but SVC is expecting 4 features as input."
    assert refused(502, "platform_error", "iris", {"instances": [[1.0, 2.0]]}) == features
    refused(400, "invalid_inputs", "iris", {"instances": "four"}, 'Expected "instances" to be a list')
    # JSON that Python reads and KServe's orjson does not: half a surrogate pair
    refused(400, "invalid_inputs", "iris", {"instances": ["\ud800"]}, "Unrecognized request format")
    refused(400, "invalid_inputs", "absent", {"instances": [FLOWER]}, "Model with name absent does not exist.")
    refused(400, "invalid_inputs", "../iris", {}, "model_name")
    refused(502, "platform_error", "tired", {}, "Model with name tired is not ready.")
    refused(502, "platform_error", "iris", {}, "instances")

    def failing(status: int, code: str, *words: str, **inputs: str) -> str:
        return refused(status, code, "moods", {"mood": "failing", **inputs}, *words)

    failing(400, "invalid_inputs", "send a picture", kind="invalid", message="send a picture")
    failing(502, "platform_error", "no such thing", kind="not implemented", message="no such thing")
    failing(502, "platform_error", "out of memory", kind="inference", message="out of memory")
    said = failing(502, "platform_error", message='boom\nTraceback (most recent call last):\n  File "/srv/a/model.py"')
    assert said == "RuntimeError : boom"
    secret = "cannot open /mnt/models/iris.joblib at http://10.1.2.3:8080/x with Bearer abcdef"
    said = failing(502, "platform_error", "cannot open", message=secret)
    assert not any(word in said for word in ("/mnt", "joblib", "10.1.2.3", "8080", "abcdef"))


def test_an_input_that_is_not_json_never_reaches_the_model_server(agent: NewAgent, kserve: ModelServer) -> None:
    here = agent(kserve.address)
    for body in ('{"model_name": "iris", "inputs": {"instances": [[NaN]]}}', '{"model_name": "iris", "inputs": {'):
        response = here.session.post(
            f"{here.web.url}/v1/predict", data=body, headers={"Content-Type": "application/json"}, timeout=60
        )
        assert_error(response, 400, "invalid_request")
    assert kserve.calls() == []


def test_a_prediction_that_takes_too_long_is_not_repeated(agent: NewAgent, kserve: ModelServer) -> None:
    here = agent(kserve.address, KSERVE_REQUEST_TIMEOUT="1")
    started = time.monotonic()
    assert_error(here.predict("moods", {"mood": "sleep", "seconds": 3}), 504, "platform_timeout")
    assert time.monotonic() - started > 0.9
    assert Task.objects.get().status == "failed"
    time.sleep(1)
    assert len(kserve.calls()) == 1


def test_a_model_that_drips_its_answer_is_timed_out(agent: NewAgent, kserve: ModelServer) -> None:
    here = agent(kserve.address, KSERVE_REQUEST_TIMEOUT="2")
    started = time.monotonic()
    assert_error(here.predict("moods", {"mood": "stream", "count": 20, "pause": 0.5}), 504, "platform_timeout")
    assert time.monotonic() - started > 1.9
    until(lambda: [call["inputs"]["mood"] for call in kserve.calls()] == ["stream", "left"])


def test_an_answer_that_breaks_off_or_is_too_large_is_an_error(agent: NewAgent, kserve: ModelServer) -> None:
    here = agent(kserve.address, MAX_RESPONSE_BODY="100000")
    assert_error(here.predict("moods", {"mood": "stream", "break_at": 1}), 502, "platform_error")
    response = here.predict("moods", {"mood": "text", "text": "x" * 200_000})
    assert_error(response, 502, "platform_error")
    assert "MAX_RESPONSE_BODY" in response.json()["error"]
    endless = {"mood": "stream", "count": 10**9}
    assert_error(here.predict("moods", endless), 502, "platform_error")
    until(lambda: kserve.calls()[-1]["inputs"] == {"mood": "left"})
    assert len(here.predict("moods", {"mood": "text", "text": "x" * 90_000}).json()["outputs"]) == 90_000


# --- Cancelling


def test_a_running_prediction_is_canceled_and_nothing_comes_after(agent: NewAgent, kserve: ModelServer) -> None:
    here = agent(kserve.address, worker=True, WORKER_CONCURRENCY="1")
    task_id = here.submit("moods", {"mood": "sleep", "seconds": 10, "then": "say so"})
    waiting = here.submit("iris", {"instances": [FLOWER]})
    until(kserve.calls)
    assert here.task(task_id)["status"] == "running"
    response = here.cancel(task_id)
    assert (response.status_code, response.json()) == (202, {"id": task_id})
    assert here.task(task_id)["status"] == "canceled"
    assert here.ended(waiting)["outputs"] == {"predictions": [0]}  # the only slot is free again
    assert [call["inputs"].get("mood") for call in kserve.calls()] == ["sleep", None], "it waited for the canceled one"

    until(lambda: kserve.calls()[-1]["inputs"] == {"mood": "slept"})  # the model server does finish it
    time.sleep(1)
    after = here.task(task_id)
    assert (after["status"], after["outputs"], after["error_info"], after["attempt"]) == ("canceled", None, "", 1)
    assert_error(here.cancel(task_id), 409, "already_finished")
    assert [call["model"] for call in kserve.calls()] == ["moods", "iris", "moods"]


def test_a_pending_prediction_that_is_canceled_never_reaches_the_model_server(
    agent: NewAgent, kserve: ModelServer
) -> None:
    here = agent(kserve.address, worker=True, WORKER_CONCURRENCY="1")
    running = here.submit("moods", {"mood": "sleep", "seconds": 60})
    pending = here.submit("iris", {"instances": [FLOWER]})
    until(kserve.calls)
    assert here.cancel(pending).status_code == 200
    assert here.cancel(running).status_code == 202  # so that the only slot is free
    assert here.task(pending)["status"] == "canceled"
    time.sleep(1)
    assert [call["model"] for call in kserve.calls()] == ["moods"]


def test_a_sync_prediction_is_canceled_by_its_id(agent: NewAgent, kserve: ModelServer) -> None:
    here = agent(kserve.address)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(here.predict, "moods", {"mood": "sleep", "seconds": 60})
        until(kserve.calls)
        began = time.monotonic()
        assert here.cancel(Task.objects.get().pk).status_code == 202
        assert_error(answer.result(20), 409, "canceled")
    print(f"\nthe caller was answered {time.monotonic() - began:.2f} s after the cancel")
    assert Task.objects.get().status == "canceled"


def test_a_prediction_whose_answer_drips_is_canceled(agent: NewAgent, kserve: ModelServer) -> None:
    here = agent(kserve.address, worker=True)
    task_id = here.submit("moods", {"mood": "stream", "count": 100, "pause": 0.2})
    until(kserve.calls)
    time.sleep(1)
    assert here.cancel(task_id).status_code == 202
    until(lambda: kserve.calls()[-1]["inputs"] == {"mood": "left"})
    assert (here.task(task_id)["status"], here.task(task_id)["outputs"]) == ("canceled", None)


# --- Streams and documentation


def generate(agent: Agent, inputs: dict[str, Any], **headers: str) -> requests.Response:
    body = {"model_name": "moods", "inputs": inputs}
    return agent.session.post(f"{agent.web.url}/v1/generate", json=body, headers=headers, stream=True, timeout=30)


def test_a_real_model_streams_through_the_agent(agent: NewAgent, kserve: ModelServer) -> None:
    here = agent(kserve.address)
    with generate(here, {"mood": "stream", "count": 3, "pause": 1}) as response:
        lines = response.iter_lines(chunk_size=1)
        assert json.loads(next(lines)) == {"id": 0, "data": "tok0 "}
        assert here.task(response.headers["X-Task-ID"])["status"] == "running"
        assert [json.loads(line) for line in lines] == [{"id": 1, "data": "tok1 "}, {"id": 2, "data": "tok2 "}]
    until(lambda: here.task(response.headers["X-Task-ID"])["status"] == "succeeded")
    assert here.task(response.headers["X-Task-ID"])["outputs"] == "tok0 tok1 tok2 "
    seen = kserve.calls()[0]["headers"]
    assert (seen["content-type"], seen["host"]) == ("application/json", "moods.default.example.com")
    with generate(here, {"mood": "stream", "count": 2}, Accept="text/event-stream") as events:
        assert events.headers["Content-Type"].startswith("text/event-stream")
        assert events.text.startswith("id: 0\ndata: tok0 \n\nid: 1\ndata: tok1 \n\n")


def test_a_real_stream_that_dies_is_a_failed_task(agent: NewAgent, kserve: ModelServer) -> None:
    here = agent(kserve.address)
    with generate(here, {"mood": "stream", "count": 5, "break_at": 2}) as response:
        messages = [json.loads(line) for line in response.iter_lines()]
    assert [message["data"] for message in messages[:2]] == ["tok0 ", "tok1 "]
    assert messages[-1]["code"] == "platform_error"
    until(lambda: here.task(response.headers["X-Task-ID"])["status"] == "failed")
    with generate(here, {"mood": "failing", "kind": "invalid", "message": "send a prompt"}) as response:
        assert_error(response, 400, "invalid_inputs")
        assert response.json()["error"] == "send a prompt"


@pytest.mark.parametrize("how", ["the caller leaves", "the task is canceled"])
def test_an_abandoned_real_stream_ends_at_the_model_too(agent: NewAgent, kserve: ModelServer, how: str) -> None:
    here = agent(kserve.address)
    with generate(here, {"mood": "stream", "count": 200, "pause": 0.1}) as response:
        next(response.iter_lines(chunk_size=1))
        if how == "the task is canceled":
            assert here.cancel(response.headers["X-Task-ID"]).status_code == 202
            assert len(list(response.iter_lines())) < 100
    until(lambda: kserve.calls()[-1]["inputs"] == {"mood": "left"})
    until(lambda: here.task(response.headers["X-Task-ID"])["status"] == "canceled")


def test_this_model_server_documents_no_inputs(agent: NewAgent, kserve: ModelServer) -> None:
    here = agent(kserve.address)
    url = f"{here.web.url}/v1/docs"
    assert_error(here.session.get(url, params={"model_name": "iris"}, timeout=30), 400, "unsupported")


# --- The peer itself, as the platform's adapter takes it to be


def test_this_model_server_streams_as_the_adapter_expects(kserve: ModelServer) -> None:
    url = f"http://{kserve.address}/v1/models/moods:predict"
    with requests.Session() as session:
        session.trust_env = False
        began = time.monotonic()
        with session.post(url, json={"mood": "stream", "count": 3, "pause": 0.5}, stream=True, timeout=30) as answer:
            lines = answer.iter_lines()
            assert next(lines) == b'{"id": 0, "data": "tok0 "}'
            first_after = time.monotonic() - began
            assert list(lines) == [b'{"id": 1, "data": "tok1 "}', b'{"id": 2, "data": "tok2 "}']
            assert time.monotonic() - began > 0.9 + first_after, "the first piece was held back"
        assert (answer.headers.get("Content-Type"), answer.headers["Transfer-Encoding"]) == (None, "chunked")

        with session.post(url, json={"mood": "stream", "break_at": 1}, stream=True, timeout=30) as broken:
            assert broken.status_code == 200
            with pytest.raises(requests.exceptions.ChunkedEncodingError):
                list(broken.iter_lines())
        assert session.post(url.replace(":predict", ":generate"), json={}, timeout=30).status_code == 405
