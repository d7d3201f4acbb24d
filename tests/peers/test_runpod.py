"""RunPod's real worker (1.12.0) behind a queue like its cloud's; the agent compared with RunPod's real client."""

import json
import math
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
from tests.peers.runpod_cloud import KEY, Cloud, Job
from tests.peers.runpod_peers import POD_HOST, RUNPOD, Worker, outcomes

pytestmark = pytest.mark.slow

FUNCTION, GENERATOR, DESERTED = "function-endpoint", "generator-endpoint", "deserted-endpoint"
SAYS = {
    "an object": {"mood": "echo", "text": "größer 🌷\nzweite Zeile", "nested": {"list": [1, None, 2.5]}},
    "a text": {"mood": "say", "say": "done"},
    "a list": {"mood": "say", "say": [1, "two", None, {"three": 3}]},
    "a number": {"mood": "say", "say": 41.5},
    "a truth": {"mood": "say", "say": False},
    "nothing": {"mood": "say", "say": None},
    "an empty object": {"mood": "say", "say": {}},
    "not a number": {"mood": "not a number"},
    "an error": {"mood": "refuse", "why": "no such colour: mauve"},
    "a raised error": {"mood": "raise", "why": "the size must be below 4096"},
    "progress": {"mood": "progress"},
}
STREAMS = {
    "texts": {"pieces": ["to", "ken", " größer 🌷\n"], "pause": 0.2},
    "objects": {"pieces": [{"token": "a", "p": 0.5}, ["b"], 3]},
    "no piece": {"pieces": []},
    "a raised error": {"pieces": ["to", "ken"], "raise_at": 1, "why": "out of memory"},
}
SECRETS = ("Traceback", "traceback", POD_HOST, "pod-", "runpod_handler", "site-packages", "/work", "1.12.0", KEY)

RealOutcomes = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def shared_cloud() -> Iterator[Cloud]:
    server = Cloud()
    yield server
    server.close()


@pytest.fixture(scope="module")
def workers(shared_cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Worker]]:
    """A worker whose handler is a function, and one whose handler is a generator; DESERTED has no worker."""
    RUNPOD.ready()
    directory = tmp_path_factory.mktemp("runpod")
    started = {
        FUNCTION: Worker(directory, shared_cloud, FUNCTION),
        GENERATOR: Worker(directory, shared_cloud, GENERATOR, "--stream"),
    }
    try:
        for worker in started.values():
            worker.start()
        yield started
    finally:
        for worker in started.values():
            worker.kill()


@pytest.fixture
def cloud(shared_cloud: Cloud, workers: dict[str, Worker]) -> Cloud:
    shared_cloud.forget()
    for worker in workers.values():
        worker.close_gate()
    return shared_cloud


@pytest.fixture
def functions(cloud: Cloud, workers: dict[str, Worker]) -> Worker:
    return workers[FUNCTION]


@pytest.fixture
def generators(cloud: Cloud, workers: dict[str, Worker]) -> Worker:
    return workers[GENERATOR]


@pytest.fixture(scope="module")
def real(shared_cloud: Cloud, workers: dict[str, Worker]) -> RealOutcomes:
    """What RunPod's real client makes of the same cloud, worker and inputs."""
    runs = {f"run {name}": {"endpoint": FUNCTION, "how": "run", "input": inputs} for name, inputs in SAYS.items()}
    streams = {
        f"stream {name}": {"endpoint": GENERATOR, "how": "stream", "input": inputs} for name, inputs in STREAMS.items()
    }
    others: RealOutcomes = {
        "generator": {"endpoint": GENERATOR, "how": "run", "input": STREAMS["texts"]},
        "run_sync": {"endpoint": FUNCTION, "how": "run_sync", "input": SAYS["an object"]},
        "cancel": {"endpoint": FUNCTION, "how": "cancel", "input": {"mood": "sleep", "seconds": 30}},
        "timed out": {
            "endpoint": FUNCTION,
            "how": "run",
            "input": {"mood": "sleep", "seconds": 30},
            "policy": {"executionTimeout": 1000},
        },
        "health": {"endpoint": DESERTED, "how": "health"},
        "wrong key": {"endpoint": FUNCTION, "how": "health", "key": "wrong"},
    }
    return outcomes(shared_cloud, {**runs, **streams, **others})


@pytest.fixture
def here(agent: NewAgent, cloud: Cloud) -> Callable[..., Agent]:
    """Starts an agent in front of the cloud."""

    def start(endpoint: str = FUNCTION, *, worker: bool = False, **environment: str) -> Agent:
        return agent("", worker=worker, **{**platform(cloud, endpoint), **environment})

    return start


NewHere = Callable[..., Agent]


def platform(cloud: Cloud, endpoint: str) -> dict[str, str]:
    return {
        "ML_PLATFORM": "runpod",
        "RUNPOD_ADDRESS": cloud.address,
        "RUNPOD_APIKEY": KEY,
        "RUNPOD_MODEL_ID": endpoint,
    }


def finite(value: Any) -> Any:
    """The agent's outputs for numbers that JSON lacks."""
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def message(error: str) -> str:
    """The sentence in a job's `error`: a text, or a JSON object with the handler's exception."""
    said: str = json.loads(error)["error_message"] if error.startswith("{") else error
    return said


def only_job(cloud: Cloud) -> Job:
    """The one job there is, once there is one."""
    until(lambda: cloud.jobs)
    (job,) = cloud.jobs.values()
    return job


def upstream_of(task_id: str) -> tuple[str, str]:
    return Task.objects.values_list("upstream_id", "upstream_cancel").get(pk=task_id)


# --- What RunPod's real client makes of it


def test_the_cloud_is_one_to_runpods_real_client(real: RealOutcomes) -> None:
    """The other tests compare with these answers, so they must be right."""
    statuses = {name: real[f"run {name}"]["status"] for name in SAYS}
    assert statuses == {
        **dict.fromkeys(SAYS, "COMPLETED"),
        "an error": "FAILED",
        "a raised error": "FAILED",
    }
    assert real["run an object"]["output"] == {"echo": SAYS["an object"]} == real["run_sync"]["output"]
    assert math.isnan(real["run not a number"]["output"]["score"]), "it is NaN on the wire"
    assert real["run an error"]["error"] == "no such colour: mauve"
    raised = json.loads(real["run a raised error"]["error"])
    assert (raised["error_message"], raised["hostname"]) == ("the size must be below 4096", POD_HOST)
    assert "runpod_handler.py" in raised["error_traceback"]
    assert real["run progress"]["output"] == {"parts": 3}
    assert real["stream texts"]["pieces"] == STREAMS["texts"]["pieces"] == real["generator"]["output"]
    assert (real["stream a raised error"]["pieces"], real["stream a raised error"]["status"]) == (["to"], "FAILED")
    assert (real["cancel"]["answer"]["status"], real["cancel"]["status"]) == ("CANCELLED", "CANCELLED")
    assert (real["timed out"]["status"], real["timed out"]["output"]) == ("TIMED_OUT", None)
    assert set(real["health"]) == {"jobs", "workers"}
    assert "401" in real["wrong key"]["words"]


# --- Predictions


def test_every_prediction_ends_as_for_the_real_client(here: NewHere, cloud: Cloud, real: RealOutcomes) -> None:
    agent = here(worker=True)
    with ThreadPoolExecutor(len(SAYS)) as pool:
        ids = {name: agent.submit("m", inputs) for name, inputs in SAYS.items()}
        answers = dict(zip(SAYS, pool.map(lambda inputs: agent.predict("m", inputs), SAYS.values()), strict=True))
    for name in SAYS:
        theirs, answer, task = real[f"run {name}"], answers[name], agent.ended(ids[name])
        if theirs["status"] == "COMPLETED":
            outputs = finite(theirs["output"])
            assert (answer.status_code, answer.json()["status"]) == (200, "succeeded"), name
            assert (answer.json()["outputs"], task["outputs"]) == (outputs, outputs), name
            assert (task["status"], task["error_info"]) == ("succeeded", ""), name
        else:
            sentence = message(theirs["error"])
            assert_error(answer, 502, "platform_error")
            assert (answer.json()["error"], task["error_info"]) == (sentence, sentence), name
            assert (task["status"], task["outputs"]) == ("failed", None), name
        job = cloud.jobs[upstream_of(ids[name])[0]]
        assert task["running_time"] == f"{job.seen()['executionTime'] / 1000:.6f}s" or theirs["status"] == "FAILED"
    assert (cloud.count("run"), cloud.count("cancel"), len(cloud.jobs)) == (2 * len(SAYS), 0, 2 * len(SAYS))


def test_only_the_message_of_an_exception_is_shown(here: NewHere, cloud: Cloud) -> None:
    agent = here(worker=True)
    inputs = {"mood": "raise", "why": "the size must be below 4096\nand above 0"}
    answer = agent.predict("m", inputs)
    task = agent.ended(agent.submit("m", inputs))
    assert (answer.json()["error"], task["error_info"]) == ("the size must be below 4096",) * 2
    assert all(secret in str(cloud.jobs) for secret in ("Traceback", POD_HOST, "runpod_handler"))
    texts = [answer.text, json.dumps(task), *Task.objects.values_list("error_info", flat=True)]
    assert not [secret for secret in SECRETS for text in texts if secret in text]
    silent = agent.predict("m", {"mood": "raise", "why": ""})
    assert silent.json()["error"] == "the runpod platform could not complete the prediction"


def test_progress_is_not_taken_for_the_outputs(here: NewHere, cloud: Cloud) -> None:
    agent = here(worker=True)
    task_id = agent.submit("m", SAYS["progress"])
    job = only_job(cloud)
    until(lambda: job.told.get("output") == "2 of 3")
    polls = cloud.count("status")
    until(lambda: cloud.count("status") > polls)
    assert (job.status, job.seen()["output"]) == ("IN_PROGRESS", "2 of 3")
    assert (agent.task(task_id)["status"], agent.task(task_id)["outputs"]) == ("running", None)
    assert agent.ended(task_id)["outputs"] == {"parts": 3}


def test_the_cloud_gets_one_run_with_only_the_input(here: NewHere, cloud: Cloud) -> None:
    secrets = {"Authorization": "Bearer of-the-caller", "apikey": "of-the-caller", "Cookie": "a=of-the-caller"}
    inputs = {"mood": "echo", "upload_webhook": "http://elsewhere.example/u/x/upload"}
    answer = here().predict("m", inputs, **{"X-Request-ID": "find-me"}, **secrets)
    assert answer.json()["outputs"] == {"echo": {"mood": "echo"}}
    assert {route for route, _, _ in cloud.asked} == {"run", "status"}
    assert [body for route, _, body in cloud.asked if route == "run"] == [{"input": {"mood": "echo"}}]
    for _, headers, _ in cloud.asked:
        assert (headers["authorization"], headers["x-request-id"]) == (f"Bearer {KEY}", "find-me")
        assert "of-the-caller" not in str(headers)


def test_requests_to_a_busy_cloud_are_repeated(here: NewHere, cloud: Cloud) -> None:
    cloud.busy_runs = cloud.busy_polls = 1
    began = time.monotonic()
    assert here().predict("m", {"mood": "say", "say": 1}).json()["outputs"] == 1
    assert time.monotonic() - began > 2, "each of them asked for a second"
    assert (cloud.count("run"), len(cloud.jobs)) == (2, 1)


def test_a_wrong_key_is_no_fault_of_the_callers(here: NewHere, cloud: Cloud) -> None:
    answer = here(RUNPOD_APIKEY="rpa_WRONGWRONGWRONG").predict("m", {"mood": "say", "say": 1})
    assert_error(answer, 502, "platform_error")
    assert "rpa_" not in answer.text
    assert cloud.count("run") == 1


# --- Streams


def streamed(agent: Agent, inputs: dict[str, Any], **headers: str) -> requests.Response:
    body = {"model_name": "m", "inputs": inputs}
    return agent.session.post(f"{agent.web.url}/v1/generate", json=body, headers=headers, stream=True, timeout=60)


def test_a_stream_has_the_pieces_the_real_client_gets(here: NewHere, real: RealOutcomes) -> None:
    agent = here(GENERATOR)
    for name in ("texts", "objects", "a raised error"):
        theirs = real[f"stream {name}"]
        with streamed(agent, STREAMS[name]) as answer:
            *messages, last = [json.loads(line) for line in answer.iter_lines()]
        task = Task.objects.get(pk=answer.headers["X-Task-ID"])
        if theirs["status"] == "COMPLETED":
            messages.append(last)
            assert (task.status, task.error_info) == ("succeeded", "")
        else:
            assert (last["code"], last["error"]) == ("platform_error", "handler: out of memory")
            assert (task.status, task.error_info) == ("failed", "handler: out of memory")
            assert not [secret for secret in SECRETS if secret in str(last)]
        pieces = [
            piece if isinstance(piece, str) else json.dumps(piece, separators=(",", ":")) for piece in theirs["pieces"]
        ]
        assert messages == [{"id": number, "data": piece} for number, piece in enumerate(pieces)], name


def test_pieces_come_while_the_handler_goes_on(here: NewHere, cloud: Cloud, generators: Worker) -> None:
    with streamed(here(GENERATOR), {"pieces": ["a", "b"], "hang": True}) as answer:
        lines = answer.iter_lines(chunk_size=1)
        assert [json.loads(next(lines))["data"] for _ in range(2)] == ["a", "b"]
        assert only_job(cloud).status == "IN_PROGRESS"
        generators.open_gate()
        assert list(lines) == []
    assert Task.objects.get().status == "succeeded"


def test_a_handler_that_is_no_generator_streams_its_output_in_one_piece(here: NewHere) -> None:
    with streamed(here(), {"mood": "say", "say": "done"}, Accept="text/event-stream") as answer:
        assert answer.text == "id: 0\ndata: done\n\nid: 1\nevent: done\ndata: \n\n"


def test_a_generator_also_predicts(here: NewHere, real: RealOutcomes) -> None:
    assert here(GENERATOR).predict("m", STREAMS["texts"]).json()["outputs"] == real["generator"]["output"]


@pytest.mark.parametrize("how", ["leaves", "cancels"])
def test_a_stream_that_is_not_wanted_any_more_ends_the_handler(
    here: NewHere, cloud: Cloud, generators: Worker, how: str
) -> None:
    agent = here(GENERATOR)
    with streamed(agent, {"pieces": ["a"], "hang": True}) as answer:
        lines = answer.iter_lines(chunk_size=1)
        assert json.loads(next(lines))["data"] == "a"
        began = time.monotonic()
        task_id = answer.headers["X-Task-ID"]
        if how == "cancels":
            assert agent.cancel(task_id).status_code == 202
            assert json.loads(next(lines))["code"] == "canceled"
    job = only_job(cloud)
    until(lambda: job.status == "CANCELLED")
    took = time.monotonic() - began
    until(lambda: job.id in generators.events("stopped"))
    until(lambda: upstream_of(task_id)[1])
    assert (agent.ended(task_id)["status"], upstream_of(task_id)) == ("canceled", (job.id, "canceled"))
    print(f"\nthe job was canceled {took:.1f} s after the caller {how}")


# --- Time limits


def test_at_the_deadline_the_job_is_canceled(here: NewHere, cloud: Cloud, functions: Worker) -> None:
    agent = here(worker=True, RUNPOD_REQUEST_TIMEOUT="1.5")
    began = time.monotonic()
    assert_error(agent.predict("m", {"mood": "sleep", "seconds": 60}), 504, "platform_timeout")
    assert time.monotonic() - began > 1.4
    task = agent.ended(agent.submit("m", {"mood": "sleep", "seconds": 60}))
    assert (task["status"], task["error_info"]) == ("failed", "the platform did not answer in time")
    assert [job.status for job in cloud.jobs.values()] == ["CANCELLED", "CANCELLED"]
    assert set(Task.objects.values_list("upstream_cancel", flat=True)) == {"canceled"}
    until(lambda: set(cloud.jobs) <= set(functions.events("stopped")))


def test_a_job_without_a_worker_is_canceled_too(here: NewHere, cloud: Cloud) -> None:
    agent = here(DESERTED, RUNPOD_REQUEST_TIMEOUT="1")
    assert_error(agent.predict("m", {"mood": "say", "say": 1}), 504, "platform_timeout")
    job = only_job(cloud)
    assert (job.status, job.taken_at, Task.objects.get().upstream_cancel) == ("CANCELLED", None, "canceled")


def test_a_job_that_the_cloud_gives_up_is_a_timeout(here: NewHere, cloud: Cloud, functions: Worker) -> None:
    cloud.execution_seconds = 0.5
    answer = here().predict("m", {"mood": "sleep", "seconds": 60})
    assert_error(answer, 504, "platform_timeout")
    assert "gave the prediction up" in answer.json()["error"]
    assert (only_job(cloud).status, cloud.count("cancel")) == ("TIMED_OUT", 0)


# --- Cancelling


def test_a_running_task_is_canceled_from_another_process(here: NewHere, cloud: Cloud, functions: Worker) -> None:
    agent = here(worker=True)
    task_id = agent.submit("m", {"mood": "sleep", "seconds": 60})
    job = only_job(cloud)
    until(lambda: job.id in functions.events("started"))
    until(lambda: upstream_of(task_id)[0] == job.id)
    began = time.monotonic()
    answer = agent.cancel(task_id)
    assert (answer.status_code, answer.json()) == (202, {"id": task_id})
    assert agent.task(task_id)["status"] == "canceled"
    until(lambda: job.status == "CANCELLED")
    took = time.monotonic() - began
    until(lambda: job.id in functions.events("stopped"))
    until(lambda: upstream_of(task_id)[1] == "canceled")
    assert_error(agent.cancel(task_id), 409, "already_finished")
    assert (cloud.count("run"), cloud.count("cancel")) == (1, 1)
    time.sleep(0.5)
    assert (agent.task(task_id)["status"], agent.task(task_id)["outputs"]) == ("canceled", None)
    print(
        f"\nthe job was canceled after {took:.2f} s, its handler stopped after {time.monotonic() - began - 0.5:.2f} s"
    )


def test_a_sync_prediction_is_canceled_by_its_id(here: NewHere, cloud: Cloud, functions: Worker) -> None:
    agent = here()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(agent.predict, "m", {"mood": "sleep", "seconds": 60})
        job = only_job(cloud)
        until(lambda: job.id in functions.events("started"))
        began = time.monotonic()
        task_id = Task.objects.get().pk
        assert agent.cancel(task_id).status_code == 202
        assert_error(answer.result(20), 409, "canceled")
    print(f"\nthe caller was answered {time.monotonic() - began:.2f} s after the cancel")
    until(lambda: job.id in functions.events("stopped"))
    assert (job.status, upstream_of(task_id)) == ("CANCELLED", (job.id, "canceled"))
    assert agent.task(task_id)["status"] == "canceled"


def test_a_job_canceled_by_another_client_fails(here: NewHere, cloud: Cloud, functions: Worker) -> None:
    agent = here(worker=True)
    task_id = agent.submit("m", {"mood": "sleep", "seconds": 60})
    job = only_job(cloud)
    until(lambda: job.id in functions.events("started"))
    theirs = outcomes(cloud, {"it": {"endpoint": FUNCTION, "how": "cancel_that", "id": job.id}})["it"]
    assert theirs == {"id": job.id, "status": "CANCELLED"}
    task = agent.ended(task_id)
    assert (task["status"], task["error_info"]) == ("failed", "the prediction was canceled on the runpod platform")
    assert cloud.count("cancel") == 1


# --- Workers that are lost


def test_a_second_attempt_comes_back_to_the_job_that_still_runs(
    here: NewHere, serve: Callable[..., Server], cloud: Cloud, functions: Worker
) -> None:
    agent = here(worker=True)
    assert agent.worker is not None
    task_id = agent.submit("m", {"mood": "gate"})
    job = only_job(cloud)
    until(lambda: job.status == "IN_PROGRESS" and upstream_of(task_id)[0] == job.id)
    agent.worker.kill()
    killed_at = time.monotonic()
    polls = cloud.count("status")
    serve("worker", **platform(cloud, FUNCTION))
    until(lambda: cloud.count("status") > polls, seconds=60)
    took = time.monotonic() - killed_at
    until(lambda: agent.task(task_id)["attempt"] == 2)
    assert (agent.task(task_id)["status"], job.status) == ("running", "IN_PROGRESS")
    threading.Timer(0.5, functions.open_gate).start()
    task = agent.ended(task_id)
    assert (task["status"], task["outputs"], task["attempt"]) == ("succeeded", {"went": "through"}, 2)
    assert upstream_of(task_id) == (job.id, "")
    assert (cloud.count("run"), len(cloud.jobs), cloud.count("cancel")) == (1, 1, 0)
    assert functions.events("started").count(job.id) == 1
    print(f"\nthe agent polled the job again {took:.0f} s after the kill")
