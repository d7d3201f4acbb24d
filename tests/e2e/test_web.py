"""What only the real web server shows: cooperative local models, probes by address, malformed chunks."""

import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import requests
from django.db import connection

from predictions.models import Task
from tests.e2e.faults import Crowd
from tests.helpers.servers import Server
from tests.helpers.slow_platform import SlowPlatform
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

Serve = Callable[..., Server]
IRIS = {"LOCAL_PREDICTOR": "examples.iris:predict"}


def slow_iris(web: Server, seconds: float) -> requests.Response:
    inputs = {"instances": [], "delay_seconds": seconds}
    return requests.post(f"{web.url}/v1/predict", json={"model_name": "iris", "inputs": inputs}, timeout=60)


def test_a_sync_prediction_on_a_local_model_can_be_canceled(serve: Serve) -> None:
    web = serve("web", **IRIS)
    answers: list[requests.Response] = []
    caller = threading.Thread(target=lambda: answers.append(slow_iris(web, 300)), daemon=True)
    caller.start()
    until(Task.objects.exists)
    assert requests.post(f"{web.url}/cancel/{Task.objects.get().pk}", timeout=30).status_code == 202
    caller.join(30)
    assert (answers[0].status_code, answers[0].json()["code"]) == (409, "canceled")


def test_a_local_models_stream_arrives_word_by_word_and_ends_with_a_cancel(serve: Serve) -> None:
    web = serve("web", LOCAL_PREDICTOR="examples:models")
    body = {"model_name": "text", "inputs": {"max_words": 1000, "seconds_per_word": 0.05, "prompt": "The cat"}}
    with requests.post(f"{web.url}/v1/generate", json=body, stream=True, timeout=60) as stream:
        lines = stream.iter_lines()
        assert json.loads(next(lines)) == {"id": 0, "data": "The cat"}
        assert json.loads(next(lines))["id"] == 1
        assert requests.get(f"{web.url}/live", timeout=30).status_code == 200
        task = Task.objects.get()
        assert task.status == "running"
        assert requests.post(f"{web.url}/cancel/{task.pk}", timeout=30).status_code == 202
        rest = [json.loads(line) for line in lines]
    assert rest[-1]["code"] == "canceled"
    assert len(rest) < 900
    task.refresh_from_db()
    assert task.status == "canceled"


def test_a_local_model_runs_on_in_web_after_its_caller_was_answered(serve: Serve, tmp_path: Path) -> None:
    web = serve("web", LOCAL_PREDICTOR="tests.helpers.predictors:wait_for_a_file")
    files = {name: tmp_path / name for name in ("begin", "end")}
    body = {"model_name": "m", "inputs": {name: str(path) for name, path in files.items()}}
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(requests.post, f"{web.url}/v1/predict", json=body, timeout=60)
        until(Task.objects.exists)
        assert requests.post(f"{web.url}/cancel/{Task.objects.get().pk}", timeout=30).status_code == 202
        assert answer.result().status_code == 409
    files["begin"].touch()
    until(files["end"].exists)
    assert Task.objects.get().status == "canceled"


def test_a_local_model_is_held_to_the_time_limit(serve: Serve) -> None:
    response = slow_iris(serve("web", TASK_TIMEOUT="1", **_short_timeouts(), **IRIS), 300)
    assert (response.status_code, response.json()["code"]) == (504, "platform_timeout")


def _short_timeouts() -> dict[str, str]:
    names = ("KSERVE", "K8SPLUGIN", "REPLICATE", "RUNPOD")
    return {f"{name}_REQUEST_TIMEOUT": "1" for name in names}


def sockets(web: Server) -> int:
    """How many the processes of a web server hold."""
    master = web.process.pid
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    found = 0
    for pid in (master, *children):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # it has been closed
                found += str(entry.readlink()).startswith("socket:")
    return found


def sessions(name: str) -> int:
    """How many connections to PostgreSQL the processes hold that go by this name."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", [name])
        return int(cursor.fetchone()[0])


def test_a_prediction_that_waits_holds_two_sockets_and_no_database_connection(
    serve: Serve, slow_platform: SlowPlatform
) -> None:
    pool = {"DATABASE_POOL_SIZE": "2", "DATABASE_TIMEOUT": "4", "PGAPPNAME": "a-crowded-web"}
    web = serve("web", **pool, **slow_platform.environment())
    callers, connections = 100, 10
    with Crowd(web.url, route="/v1/predict", callers=1, sleep=0) as first:
        first.wait_for(1)
    before, seen = sockets(web), len(slow_platform.calls())
    alone = "x" * 20_000  # the writer does not batch long values
    with Crowd(web.url, route="/v1/predict", callers=callers, first=1000, sleep=10, text=alone) as crowd:
        until(lambda: Task.objects.filter(status=Task.Status.RUNNING).count() == callers)
        until(lambda: len(slow_platform.calls()) == seen + callers)
        held = sockets(web) - before
        if connection.vendor == "postgresql":
            assert 1 <= sessions("a-crowded-web") <= 2
    assert 2 * callers - connections <= held <= 2 * callers + connections
    assert crowd.refused == {}


def test_an_agent_can_stand_behind_an_agent(serve: Serve) -> None:
    behind = serve("web", **IRIS)
    front = serve("web", ML_PLATFORM="k8s", K8SPLUGIN_ADDRESS=f"127.0.0.1:{behind.port}")
    answer = slow_iris(front, 0).json()
    assert answer["status"] == answer["outputs"]["status"] == "succeeded"
    assert answer["outputs"]["outputs"] == {"predictions": []}
    assert float(answer["running_time"].rstrip("s")) >= 0
    assert "running_time" not in answer["outputs"]
    asked = {"model_name": "iris"}
    assert "instances" in requests.get(f"{front.url}/v1/docs", params=asked, timeout=30).json()


def test_a_local_model_that_computes_does_not_hold_up_the_others(serve: Serve) -> None:
    web = serve("web", LOCAL_PREDICTOR="tests.helpers.predictors:compute")
    body = {"model_name": "m", "inputs": {"seconds": 6}}
    caller = threading.Thread(
        target=requests.post, args=(f"{web.url}/v1/predict",), kwargs={"json": body, "timeout": 60}, daemon=True
    )
    caller.start()
    until(Task.objects.exists)
    answered = 0
    while caller.is_alive() and answered < 20:
        assert requests.get(f"{web.url}/live", timeout=30).status_code == 200
        answered += 1
        time.sleep(0.01)
    assert answered == 20
    caller.join(60)


def test_probes_are_answered_whatever_the_host_name(serve: Serve) -> None:
    web = serve("web", ALLOWED_HOSTS="agent.example.com")
    for path in ("/live", "/ready"):
        assert requests.get(f"{web.url}{path}", headers={"Host": "10.0.0.9"}, timeout=30).status_code == 200
    assert requests.get(f"{web.url}/v1/queue_size", headers={"Host": "10.0.0.9"}, timeout=30).status_code == 400


@pytest.mark.parametrize(
    ("coding", "body"), [("chunked", b"zz\r\nabc\r\n0\r\n\r\n"), ("gzip, chunked", b"3\r\nabc\r\n0\r\n\r\n")]
)
def test_a_malformed_chunked_body_is_the_callers_error(serve: Serve, coding: str, body: bytes) -> None:
    web = serve("web")
    head = (
        f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: {coding}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", web.port), timeout=30) as sock:
        sock.sendall(head.encode() + body)
        assert b" 400 " in sock.recv(4096).split(b"\r\n")[0]
