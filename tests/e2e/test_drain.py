"""SIGTERM to web under load: each request it accepted is answered, and each prediction it began is finished."""

import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
import requests

from predictions.models import Task
from predictions.uploads import upload_address
from tests.e2e.callers import Callers
from tests.e2e.faults import Crowd, assert_outputs_belong_to_inputs, settles
from tests.helpers.servers import Server
from tests.helpers.slow_platform import SlowPlatform, sleeping
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

Serve = Callable[..., Server]
ANSWERS = {"200", "503 unavailable", "refused", "idle closed"}
RESETS = 3
"""So many of hundreds of callers may be opening a connection in the moment in which the listener closes."""


def assert_answered_or_refused(*crowd: Callers) -> None:
    cuts = [cut for callers in crowd for cut in callers.cuts]
    assert len(cuts) <= RESETS, cuts
    assert all("ConnectionResetError" in cut for cut in cuts), cuts
    assert {answer for callers in crowd for answer in callers.answers} <= ANSWERS | {"cut"}


@pytest.mark.parametrize("processes", ["1", "2"])
def test_every_request_that_web_accepted_is_answered_while_it_ends(
    serve: Serve, slow_platform: SlowPlatform, processes: str
) -> None:
    environment = {**slow_platform.as_kserve(), "MAX_QUEUE_SIZE": "100000", "WEB_CONCURRENCY": processes}
    web = serve("web", **environment)
    with ExitStack() as stack:
        crowd = {
            "sync, kept alive": Callers(web.port, "/v1/predict", sleeping(2), count=120, keep_alive=True),
            "sync, new connections": Callers(web.port, "/v1/predict", sleeping(2), count=120, keep_alive=False),
            "streams": Callers(web.port, "/v1/generate", sleeping(0.5, pieces=5), count=60, keep_alive=True),
            "async": Callers(web.port, "/async/v1/predict", sleeping(0), count=8, keep_alive=True),
            "async, new connections": Callers(web.port, "/async/v1/predict", sleeping(0), count=8, keep_alive=False),
        }
        for callers in crowd.values():
            stack.enter_context(callers)
        until(lambda: all(callers.answers["200"] for callers in crowd.values()), seconds=60)
        until(lambda: Task.objects.filter(status="running").count() >= 250, seconds=60)
        before = sum((callers.answers for callers in crowd.values()), Counter[str]())
        told_at = time.monotonic()
        web.signal(signal.SIGTERM)
        web.process.wait(120)
        print(f"\n{processes} processes ended after {time.monotonic() - told_at:.1f} s; before: {dict(before)}")
        time.sleep(1)
    for name, callers in crowd.items():
        print(f"{name}: {dict(callers.answers)} {callers.cuts[:3]}")
    assert_answered_or_refused(*crowd.values())
    in_all = sum((callers.answers for callers in crowd.values()), Counter[str]())
    assert in_all["503 unavailable"] > 0
    waiting = crowd["async"].answers["200"] + crowd["async, new connections"].answers["200"]
    assert Counter(task.status for task in Task.objects.all()) == {
        "succeeded": in_all["200"] - waiting,
        "pending": waiting,
    }
    assert len(slow_platform.calls()) == in_all["200"] - waiting
    assert_outputs_belong_to_inputs()


def test_connections_that_wait_when_web_closes_its_listener_are_answered(
    serve: Serve, slow_platform: SlowPlatform
) -> None:
    """The kernel has accepted them, and web has not."""
    web = serve("web", **slow_platform.environment())
    body = json.dumps({"model_name": "m", "inputs": {}}).encode()
    head = (
        f"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    with Callers(web.port, "/v1/predict", sleeping(2), count=1, keep_alive=False) as caller, ExitStack() as stack:
        until(lambda: len(slow_platform.calls()) == 1)
        web.signal(signal.SIGTERM)
        until(lambda: predict(web).status_code == 503)
        caller.stop_asking()
        os.killpg(web.process.pid, signal.SIGSTOP)
        late = [stack.enter_context(socket.create_connection(("127.0.0.1", web.port))) for _ in range(1500)]
        for each in late:
            each.sendall(f"{head}\r\n\r\n".encode() + body)
        time.sleep(2)  # the prediction has ended: the process closes its listener as soon as it goes on
        os.killpg(web.process.pid, signal.SIGCONT)
        assert Counter(each.recv(12) for each in late) == {b"HTTP/1.1 503": 1500}
    assert caller.answers == {"200": 1}


def test_while_it_ends_web_still_takes_the_files_of_what_runs_and_says_why_it_is_not_ready(
    serve: Serve, slow_platform: SlowPlatform
) -> None:
    web = serve("web", **slow_platform.environment())
    with Callers(web.port, "/v1/predict", sleeping(3), count=1, keep_alive=False) as caller:
        until(lambda: len(slow_platform.calls()) == 1)
        running = Task.objects.get().pk
        web.signal(signal.SIGTERM)
        until(lambda: predict(web).status_code == 503)
        caller.stop_asking()
        web.signal(signal.SIGTERM)  # a second one changes nothing
        ready = requests.get(f"{web.url}/ready", timeout=30)
        assert (ready.status_code, ready.json()["checks"]["process"]) == (503, "shutting down")
        assert requests.get(f"{web.url}/live", timeout=30).status_code == 200
        assert requests.get(f"{web.url}/task/{running}", timeout=30).json()["status"] == "running"
        path = urlsplit(upload_address(running)).path
        uploaded = requests.post(f"{web.url}{path}", files={"file": ("a.txt", b"made by the model")}, timeout=30)
        assert uploaded.status_code == 200
    assert caller.answers == {"200": 1}
    assert web.process.wait(30) == 0


def predict(web: Server, **inputs: object) -> requests.Response:
    return requests.post(f"{web.url}/v1/predict", json={"model_name": "m", "inputs": inputs}, timeout=30)


def test_a_refused_request_with_a_large_body_reads_its_answer(serve: Serve, slow_platform: SlowPlatform) -> None:
    """The application does not read the body, and web reads it before it closes the connection."""
    web = serve("web", **slow_platform.environment())
    with Callers(web.port, "/v1/predict", sleeping(4), count=1, keep_alive=False) as caller:
        until(lambda: len(slow_platform.calls()) == 1)
        web.signal(signal.SIGTERM)
        until(lambda: predict(web).status_code == 503)
        caller.stop_asking()
        for _ in range(20):
            assert predict(web, text="x" * 5_000_000).json()["code"] == "unavailable"


def test_a_reload_is_noticed_by_nobody(serve: Serve, slow_platform: SlowPlatform) -> None:
    """SIGHUP: new processes serve the new requests, and the old ones finish theirs."""
    web = serve("web", WEB_CONCURRENCY="2", **slow_platform.environment())
    with (
        Callers(web.port, "/v1/predict", sleeping(0.3), count=20, keep_alive=True) as kept,
        Callers(web.port, "/v1/predict", sleeping(0.3), count=20, keep_alive=False) as new,
    ):
        for _ in range(2):
            asked = sum(kept.answers.values()) + sum(new.answers.values())
            web.signal(signal.SIGHUP)
            until(lambda asked=asked: sum(kept.answers.values()) + sum(new.answers.values()) > asked + 400, seconds=60)
    assert set(kept.answers) | set(new.answers) <= {"200", "idle closed"}, (kept.cuts, new.cuts)


def test_an_idle_connection_does_not_hold_the_end_up_for_long(serve: Serve) -> None:
    web = serve("web")
    with socket.create_connection(("127.0.0.1", web.port)) as silent, requests.Session() as session:
        assert session.get(f"{web.url}/live", timeout=30).status_code == 200
        web.signal(signal.SIGTERM)
        assert web.process.wait(20) == 0
        assert silent.recv(1) == b""


def test_sigquit_ends_web_at_once(serve: Serve, slow_platform: SlowPlatform) -> None:
    web = serve("web", **slow_platform.environment())
    with Callers(web.port, "/v1/predict", sleeping(60), count=1, keep_alive=False) as caller:
        until(lambda: len(slow_platform.calls()) == 1)
        caller.stop_asking()
        web.signal(signal.SIGQUIT)
        assert web.process.wait(20) == 0
    assert caller.answers == {"cut": 1}


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_pod_with_a_redis_of_its_own_leaves_nothing_behind(
    serve: Serve, slow_platform: SlowPlatform, processes: str
) -> None:
    """Web and worker get SIGTERM together, while hundreds of tasks wait and callers go on submitting."""
    environment = {
        "USE_LOCAL_REDIS": "true",
        "SHUTDOWN_DELAY": "3",
        "MAX_QUEUE_SIZE": "5000",
        "WORKER_CONCURRENCY": "16",
        "WEB_CONCURRENCY": processes,
        **slow_platform.environment(),
    }
    web, worker = serve("web", **environment), serve("worker", **environment)
    with (
        Crowd(web.url, callers=8, sleep=15) as crowd,
        Callers(web.port, "/v1/predict", lambda n: sleeping(15)(n + 10**6), count=32, keep_alive=True) as sync,
    ):
        crowd.wait_for(400)
        until(lambda: Task.objects.filter(status="running").count() == 16 + 32)
        told_at = time.monotonic()
        web.signal(signal.SIGTERM)
        worker.signal(signal.SIGTERM)
        until(lambda: requests.get(f"{web.url}/ready", timeout=30).status_code == 503)
        before = len(crowd.accepted)
        crowd.wait_for(before + 20)  # it goes on serving
        until(lambda: not Task.objects.filter(status="pending").exists())
        print(f"\nnothing waits any more {time.monotonic() - told_at:.1f} s after SIGTERM")
        assert Task.objects.filter(status="running").exists()  # those are finished
        worker.process.wait(60)
        web.process.wait(60)
    failed = Task.objects.filter(status="failed")
    refused = {"the queue did not answer", "the task could not be queued"}  # with a 503
    assert set(failed.values_list("error_info", flat=True)) <= {"the task queue was closed"} | refused
    assert_answered_or_refused(sync)
    assert set(crowd.refused) <= {"503 unavailable", "no answer"}
    ended = settles(crowd, slow_platform)
    print(f"{dict(ended)}; {len(crowd.accepted)} accepted, {dict(crowd.refused)}, sync {dict(sync.answers)}")
    assert ended["succeeded"] == len(slow_platform.calls())

    # A new process on the same Redis opens the queue again.
    again = serve("web", **environment)
    body = {"model_name": "m", "inputs": {"n": 10**8}}
    until(lambda: requests.post(f"{again.url}/async/v1/predict", json=body, timeout=30).status_code == 200, seconds=60)
