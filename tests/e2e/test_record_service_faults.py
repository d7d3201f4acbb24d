"""The record service at WEBHOOK_SERVER_ADDRESS: a real second agent's, away, slow, and one that misbehaves."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from django.db import connection

from predictions.models import Task
from tests.e2e.callers import Callers
from tests.e2e.databases import manage, reachable_here
from tests.e2e.faults import Crowd, settles
from tests.helpers.proxy import Proxy
from tests.helpers.servers import Server, database_url
from tests.helpers.slow_platform import SlowPlatform, sleeping
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

Serve = Callable[..., Server]


class Moody(ThreadingHTTPServer):
    """Stands before a record service, and answers in its own way while it has a `mood`."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Moods)
        self.target = target
        self.mood = ""
        self.answered: Counter[str] = Counter()
        self.address = f"127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Moods(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Moody
    answers = {
        "500": (500, b'{"error": "no"}'),
        "garbage": (200, b"<html>what?</html>"),
        "another object": (200, b'{"hello": "world"}'),
        "a list": (200, b"[1, 2]"),
    }

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        mood = self.server.mood
        self.server.answered[mood] += 1
        if mood in self.answers and self.path != "/live":
            status, answer = self.answers[mood]
        else:
            headers = {name: self.headers[name] for name in ("apikey", "UID", "Content-Type") if name in self.headers}
            reply = requests.request(
                self.command, self.server.target + self.path, data=body, headers=headers, timeout=60
            )
            status, answer = reply.status_code, reply.content
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = handle_any  # noqa: N815 - http.server names them so

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def service(serve: Serve, tmp_path: Path) -> Iterator[Server]:
    """A second agent's `webhook` process with a database of its own, which is `own` here."""
    url = f"sqlite:///{tmp_path / 'records.sqlite3'}"
    with reachable_here(url):
        yield serve("webhook", DATABASE_URL=url)


def agent(serve: Serve, platform: SlowPlatform, address: str) -> Server:
    environment = {
        "MAX_QUEUE_SIZE": "2000",
        "WORKER_CONCURRENCY": "64",
        "WEBHOOK_SERVER_ADDRESS": address,
        **platform.environment(),
    }
    web = serve("web", **environment)
    serve("worker", **environment)
    return web


def is_recorded_there(address: str, crowd: Crowd, platform: SlowPlatform) -> None:
    """Every acknowledged task has ended on both sides, and in the same way."""
    manage("init_check", DATABASE_URL=database_url(), WEBHOOK_SERVER_ADDRESS=address, **platform.environment())
    here = dict(Task.objects.filter(pk__in=crowd.accepted.values()).values_list("pk", "status"))
    there = dict(Task.objects.using("own").filter(pk__in=here).values_list("pk", "status"))
    assert there == here
    assert not Task.objects.filter(unreported=True).exists()


def test_a_record_service_that_is_away_for_twenty_seconds(
    serve: Serve, slow_platform: SlowPlatform, service: Server
) -> None:
    proxy = Proxy(f"127.0.0.1:{service.port}")
    web = agent(serve, slow_platform, proxy.address)
    with (
        Crowd(web.url, callers=8, sleep=2) as crowd,
        Callers(web.port, "/v1/predict", lambda n: sleeping(1)(n + 10**6), count=16, keep_alive=True) as sync,
    ):
        crowd.wait_for(400)
        until(lambda: Task.objects.filter(status="running").count() >= 70)
        proxy.cut()
        time.sleep(20)
        assert requests.get(f"{web.url}/ready", timeout=30).json()["checks"]["record_service"] == "does not answer"
        proxy.mend()
        mended_at = time.monotonic()
        crowd.wait_for(len(crowd.accepted) + 1)
        print(f"\naccepted again {time.monotonic() - mended_at:.1f} s after it was back")
    assert set(crowd.refused) <= {"503 unavailable"}
    assert set(sync.answers) <= {"200", "503 unavailable"}
    print(settles(crowd, slow_platform), len(crowd.accepted), crowd.refused, sync.answers)
    is_recorded_there(proxy.address, crowd, slow_platform)
    proxy.close()


@pytest.mark.parametrize("mood", ["500", "garbage", "another object", "a list"])
def test_a_record_service_that_answers_nonsense(
    serve: Serve, slow_platform: SlowPlatform, service: Server, mood: str
) -> None:
    moody = Moody(service.url)
    web = agent(serve, slow_platform, moody.address)
    with Crowd(web.url, callers=8, sleep=2) as crowd:
        crowd.wait_for(100)
        until(lambda: Task.objects.filter(status="running").count() > 16)
        moody.mood = mood
        until(lambda: moody.answered[mood] >= 100)
        moody.mood = ""
        crowd.wait_for(len(crowd.accepted) + 1)
    assert set(crowd.refused) <= {"503 unavailable"}
    print(f"\n{mood}: {settles(crowd, slow_platform)}, {len(crowd.accepted)} accepted, {crowd.refused}")
    is_recorded_there(moody.address, crowd, slow_platform)
    moody.shutdown()
    moody.server_close()


def test_a_slow_record_service_holds_no_database_connection(
    serve: Serve, slow_platform: SlowPlatform, service: Server
) -> None:
    """With two database connections, thirty callers that wait for the record service do not block others."""
    assert connection.vendor == "postgresql", "run it on PostgreSQL: a SQLite file has no pool"
    proxy = Proxy(f"127.0.0.1:{service.port}")
    environment = {"DATABASE_POOL_SIZE": "2", "DATABASE_TIMEOUT": "4", "WEBHOOK_SERVER_ADDRESS": proxy.address}
    web = serve("web", **environment, **slow_platform.environment())
    first = requests.post(f"{web.url}/v1/predict", json=sleeping(0)(0), timeout=30).json()["id"]
    proxy.delay_seconds = 6
    with Callers(web.port, "/v1/predict", lambda n: sleeping(0)(n + 1), count=30, keep_alive=True) as callers:
        until(lambda: Task.objects.filter(status="running").count() == 30)
        answers = [requests.get(f"{web.url}/task/{first}", timeout=30).status_code for _ in range(50)]
        assert answers == [200] * 50
        callers.stop_asking()
    assert set(callers.answers) <= {"200", "503 unavailable"}
    proxy.close()
