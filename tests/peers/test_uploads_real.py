"""Models built with kservehelper, which send the files they make while their prediction is still waited for."""

import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from django.conf import settings

from predictions.models import Task, Upload
from predictions.uploads import upload_address
from tests.helpers.api import assert_error
from tests.helpers.factories import TaskFactory
from tests.helpers.ports import free_port
from tests.helpers.virtualenvs import Environment, NoPythonError
from tests.peers.agent import Agent, NewAgent
from tests.peers.helper_server import HELPER, OLD_HELPER, HelperServer
from tests.peers.pictures import picture

pytestmark = pytest.mark.slow

NewUploadAgent = Callable[..., Agent]
URL = r"http://127\.0\.0\.1:\d+/media/uploads/[0-9a-f]{2}/[0-9a-f]{32}\.png"


def running(environment: Environment, model: str, factory: pytest.TempPathFactory) -> Iterator[HelperServer]:
    server = HelperServer(environment.ready(), model, factory.mktemp(model))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HelperServer]:
    yield from running(HELPER, "painter", tmp_path_factory)


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HelperServer]:
    yield from running(HELPER, "writer", tmp_path_factory)


@pytest.fixture(scope="module")
def old() -> Environment:
    try:
        return OLD_HELPER.ready()
    except NoPythonError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def old_painter(old: Environment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HelperServer]:
    yield from running(old, "painter", tmp_path_factory)


@pytest.fixture(scope="module")
def old_writer(old: Environment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HelperServer]:
    yield from running(old, "writer", tmp_path_factory)


@pytest.fixture
def uploads(agent: NewAgent, monkeypatch: pytest.MonkeyPatch) -> NewUploadAgent:
    """Starts an agent whose one web process waits for the predictions and takes their uploads."""

    def start(model: HelperServer, **options: Any) -> Agent:
        port = free_port()
        monkeypatch.setattr("tests.helpers.servers.free_port", lambda: port)
        return agent(model.address, UPLOAD_WEBHOOK_ADDRESS=f"http://127.0.0.1:{port}", WEB_CONCURRENCY="1", **options)

    return start


def assert_drawn(agent: Agent, task: dict[str, Any], count: int) -> None:
    """The task succeeded, and its outputs are the URLs of `count` pictures, in their order, kept as the task's."""
    assert (task["status"], task["error_info"], list(task["outputs"])) == ("succeeded", "", ["output"])
    urls = task["outputs"]["output"]
    assert len(set(urls)) == count
    for number, url in enumerate(urls):
        assert re.fullmatch(URL, url), url
        assert url.startswith(f"{agent.web.url}/media/")
        served = agent.session.get(url, timeout=30)
        assert (served.status_code, served.content) == (200, picture(number))
        assert served.headers["Content-Type"] == "image/png"
        assert served.headers["Content-Disposition"].startswith("attachment")
        assert served.headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in served.headers["Content-Security-Policy"]
    kept = Upload.objects.filter(task_id=task["id"])
    assert {(row.name, row.size) for row in kept} == {
        (url.split("/media/")[1], len(picture(number))) for number, url in enumerate(urls)
    }
    assert re.fullmatch(r"\d+\.\d{6}s", task["running_time"])
    assert 0 < float(task["running_time"].rstrip("s")) < 30


# --- Files


def test_the_one_web_process_takes_the_files_of_the_prediction_it_waits_for(
    uploads: NewUploadAgent, painter: HelperServer
) -> None:
    here = uploads(painter)
    began = time.monotonic()
    response = here.predict("painter", {"count": 2})
    assert response.status_code == 200, response.text
    print(f"\na prediction with two uploads takes {time.monotonic() - began:.2f} s")
    assert_drawn(here, response.json(), 2)
    assert_drawn(here, here.task(response.json()["id"]), 2)


def test_a_worker_waits_while_web_takes_the_files(uploads: NewUploadAgent, painter: HelperServer) -> None:
    here = uploads(painter, worker=True)
    ids = [here.submit("painter", {"count": count}) for count in (1, 2, 7)]
    for task_id, count in zip(ids, (1, 2, 7), strict=True):
        assert_drawn(here, here.ended(task_id), count)
    assert Upload.objects.count() == 10


def test_many_predictions_upload_through_one_web_process(uploads: NewUploadAgent, painter: HelperServer) -> None:
    here = uploads(painter)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: here.predict("painter", {"count": 3}), range(20)))
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert_drawn(here, answer.json(), 3)
    assert Upload.objects.count() == 60


def test_callers_cannot_choose_the_upload_address(uploads: NewUploadAgent, painter: HelperServer) -> None:
    here = uploads(painter)
    response = here.predict("painter", {"count": 1, "upload_webhook": f"http://127.0.0.1:{free_port()}/upload"})
    assert_drawn(here, response.json(), 1)
    token = upload_address(response.json()["id"]).removeprefix(settings.UPLOAD_BASE_URL)
    late = here.session.post(f"{here.web.url}{token}", files={"file": ("late.png", b"late")}, timeout=30)
    assert_error(late, 404, "not_found")


@pytest.mark.parametrize("count", [1, 12])
def test_kservehelper_sends_a_batch(uploads: NewUploadAgent, painter: HelperServer, count: int) -> None:
    """It does so when the address ends in upload_batch; ours never does, so the model is called with one that does."""
    here = uploads(painter)
    task = TaskFactory(model_name="painter", status="running", platform="kserve")
    address = here.web.url + upload_address(task.pk).removeprefix(settings.UPLOAD_BASE_URL) + "_batch"
    inputs = {"count": count, "upload_webhook": address}
    answer = here.session.post(f"http://{painter.address}/v1/models/painter:predict", json=inputs, timeout=60)
    assert answer.status_code == 200, answer.text
    outputs = {"output": answer.json()["output"]}
    running_time = f"{float(answer.json()['running_time'].rstrip('s')):.6f}s"
    ended = {"id": task.pk, "status": "succeeded", "error_info": "", "outputs": outputs, "running_time": running_time}
    assert_drawn(here, ended, count)


def test_a_file_that_is_refused_fails_the_prediction(uploads: NewUploadAgent, painter: HelperServer) -> None:
    """kservehelper tries three times and then gives up: this takes 12 seconds."""
    here = uploads(painter, MAX_UPLOAD_SIZE="20")
    response = here.predict("painter", {"count": 1})
    assert_error(response, 502, "platform_error")
    assert "failed to upload files" in response.json()["error"]
    assert Task.objects.get().status == "failed"
    assert not Upload.objects.exists()
    assert "Traceback" not in here.web.output()


# --- Values and streams


@pytest.mark.parametrize("asynchronous", [False, True])
def test_plain_values(uploads: NewUploadAgent, writer: HelperServer, asynchronous: bool) -> None:
    here = uploads(writer, worker=asynchronous)
    inputs = {"text": "größer", "repeat": 2}
    task = here.ended(here.submit("writer", inputs)) if asynchronous else here.predict("writer", inputs).json()
    assert (task["status"], task["outputs"]) == ("succeeded", {"output": ["größer"] * 2, "letters": 12})
    assert re.fullmatch(r"\d+\.\d{6}s", task["running_time"])
    assert not Upload.objects.exists()


def test_an_input_the_model_does_not_know(uploads: NewUploadAgent, writer: HelperServer) -> None:
    response = uploads(writer).predict("writer", {"color": "red"})
    assert_error(response, 502, "platform_error")
    assert "model has no input parameter named color" in response.json()["error"]


def assert_streams(here: Agent, inputs: dict[str, Any], accept: str = "*/*") -> list[str]:
    """The lines of a stream with three pieces of which the first comes at once."""
    body = {"model_name": "writer", "inputs": {"repeat": 3, "pause": 0.5, **inputs}}
    began = time.monotonic()
    with here.session.post(
        f"{here.web.url}/v1/generate", json=body, headers={"Accept": accept}, stream=True, timeout=30
    ) as response:
        assert response.status_code == 200, response.text
        pieces = response.iter_lines(chunk_size=1)
        lines = [next(pieces).decode()]
        first_after = time.monotonic() - began
        lines += [piece.decode() for piece in pieces]
    assert time.monotonic() - began > 0.9 + first_after, "the first piece was held back"
    task = here.task(response.headers["X-Task-ID"])
    assert (task["status"], task["outputs"]) == ("succeeded", "tok0 tok1 tok2 ")
    return lines


def test_a_generator_streams(uploads: NewUploadAgent, writer: HelperServer) -> None:
    here = uploads(writer)
    expected = [{"id": number, "data": f"tok{number} "} for number in range(3)]
    assert [json.loads(line) for line in assert_streams(here, {"stream": True})] == expected
    events = assert_streams(here, {"stream": True}, accept="text/event-stream")
    assert events[:6] == ["id: 0", "data: tok0 ", "", "id: 1", "data: tok1 ", ""]


def test_helper_2_has_no_docs(uploads: NewUploadAgent, writer: HelperServer) -> None:
    here = uploads(writer)
    answer = here.session.get(f"{here.web.url}/v1/docs", params={"model_name": "writer"}, timeout=30)
    assert_error(answer, 400, "unsupported")


# --- kservehelper 1.x, on KServe 0.10.2


def test_old_helper_uploads(uploads: NewUploadAgent, old_painter: HelperServer) -> None:
    here = uploads(old_painter, worker=True, KSERVE_VERSION="0.10.2")
    assert_drawn(here, here.predict("painter", {"count": 2}).json(), 2)
    assert_drawn(here, here.ended(here.submit("painter", {"count": 5})), 5)


def test_old_helper_streams_at_generate(uploads: NewUploadAgent, old_writer: HelperServer) -> None:
    here = uploads(old_writer, KSERVE_VERSION="v0.10.2")
    assert [json.loads(line)["id"] for line in assert_streams(here, {})] == [0, 1, 2]
    task = here.predict("writer", {"repeat": 2}).json()
    assert (task["status"], task["outputs"]) == ("succeeded", {"output": ["tok", "tok"], "letters": 6})


def test_old_helper_tells_of_its_inputs(uploads: NewUploadAgent, old_writer: HelperServer) -> None:
    here = uploads(old_writer, KSERVE_VERSION="0.10.2")

    def docs(model: str) -> requests.Response:
        return here.session.get(f"{here.web.url}/v1/docs", params={"model_name": model}, timeout=30)

    assert docs("writer").status_code == 200
    assert docs("writer").json()["repeat"] == {"default": 3, "description": "How often", "ge": 1, "type": "int"}
    assert (docs("absent").status_code, docs("absent").json()) == (200, {})
