"""PostgreSQL restarted, crashed, away and frozen under load; SQLite with many writers, and locked for long."""

import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import requests
from django.db import connections
from rq.defaults import RQ_KEY_PREFIX

from predictions.models import Task
from predictions.queue import queue
from tests.e2e.callers import Callers
from tests.e2e.databases import Postgres, manage, reachable_here
from tests.e2e.faults import Crowd, settles
from tests.helpers.servers import Server
from tests.helpers.slow_platform import SlowPlatform, sleeping
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

Serve = Callable[..., Server]


@pytest.fixture
def server() -> Iterator[Postgres]:
    server = Postgres()
    with reachable_here(server.url):
        yield server
    server.close()


def agent(serve: Serve, platform: SlowPlatform, **more: str) -> Server:
    """A web process and a worker of 64 slots."""
    environment = {"MAX_QUEUE_SIZE": "2000", "WORKER_CONCURRENCY": "64", **platform.environment(), **more}
    web = serve("web", **environment)
    serve("worker", **environment)
    return web


def rows(**conditions: str) -> int:
    connections["own"].close_if_unusable_or_obsolete()
    return Task.objects.using("own").filter(**conditions).count()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_postgresql_is_restarted_under_load(
    serve: Serve, slow_platform: SlowPlatform, server: Postgres, mode: str
) -> None:
    web = agent(serve, slow_platform, DATABASE_URL=server.url)
    with (
        Crowd(web.url, callers=8, sleep=2) as crowd,
        Callers(web.port, "/v1/predict", lambda number: sleeping(1)(number + 10**6), count=32, keep_alive=True) as sync,
    ):
        crowd.wait_for(400)
        until(lambda: rows(status="running") >= 90)
        connections["own"].close()
        server.restart(mode)
        restarted_at = time.monotonic()
        before, answered = len(crowd.accepted), sync.answers["200"]
        crowd.wait_for(before + 1)
        until(lambda: sync.answers["200"] > answered)
        print(f"\n{mode}: accepted again {time.monotonic() - restarted_at:.1f} s after the restart")
        crowd.wait_for(before + 200)
    assert set(crowd.refused) <= {"503 unavailable"}, crowd.refused
    assert set(sync.answers) <= {"200", "503 unavailable"}, sync.cuts
    ended = settles(crowd, slow_platform, using="own")
    print(f"{ended}, refused {crowd.refused}, sync {sync.answers}")
    assert ended["succeeded"] >= len(crowd.accepted) + sync.answers["200"]


def test_postgresql_is_away_for_longer_than_tasks_take(
    serve: Serve, slow_platform: SlowPlatform, server: Postgres
) -> None:
    """What was predicted meanwhile is written when it is back, and not predicted again: also of callers who waited."""
    web = agent(serve, slow_platform, DATABASE_URL=server.url)
    with (
        Crowd(web.url, callers=8, sleep=2) as crowd,
        Callers(web.port, "/v1/predict", lambda number: sleeping(1)(number + 10**6), count=32, keep_alive=True) as sync,
    ):
        crowd.wait_for(300)
        until(lambda: rows(status="running") >= 90)
        connections["own"].close()
        server.stop()
        until(
            lambda: queue.get_redis().zcard(f"{RQ_KEY_PREFIX}:scheduled:default") >= 64, seconds=60
        )  # their outcomes are kept
        assert requests.get(f"{web.url}/live", timeout=30).status_code == 200
        assert requests.get(f"{web.url}/ready", timeout=30).json()["checks"]["database"] == "does not answer"
        server.start_again()
        back_at = time.monotonic()
        crowd.wait_for(len(crowd.accepted) + 1)
        print(f"\naccepted again {time.monotonic() - back_at:.1f} s after it was back")
    assert set(crowd.refused) <= {"503 unavailable"}, crowd.refused
    assert set(sync.answers) <= {"200", "503 unavailable"}, sync.cuts
    ended = settles(crowd, slow_platform, using="own")
    print(f"{ended}, refused {crowd.refused}, sync {sync.answers}")
    assert ended["succeeded"] > sync.answers["200"] + len(crowd.accepted)  # with those that were answered 503


def test_a_frozen_postgresql_holds_no_caller_for_long(
    serve: Serve, slow_platform: SlowPlatform, server: Postgres
) -> None:
    """It accepts connections and says nothing. Callers are answered 503, probes as ever; then all goes on."""
    web = agent(serve, slow_platform, DATABASE_URL=server.url, DATABASE_TIMEOUT="3")
    with Crowd(web.url, callers=8, sleep=2) as crowd:
        crowd.wait_for(300)
        until(lambda: rows(status="running") == 64)
        connections["own"].close()
        server.freeze()
        began_at = time.monotonic()
        answers: dict[str, float] = {}
        for route in ("/v1/predict", "/async/v1/predict"):
            asked_at = time.monotonic()
            body = {"model_name": "m", "inputs": {"n": 10**7}}
            assert requests.post(f"{web.url}{route}", json=body, timeout=60).status_code == 503
            answers[route] = time.monotonic() - asked_at
        asked_at = time.monotonic()
        assert requests.get(f"{web.url}/task/nobody", timeout=60).status_code == 503
        answers["/task"] = time.monotonic() - asked_at
        probes = []
        while time.monotonic() < began_at + 20:
            asked_at = time.monotonic()
            assert requests.get(f"{web.url}/live", timeout=30).status_code == 200
            probes.append(time.monotonic() - asked_at)
            time.sleep(0.05)
        server.thaw()
        thawed_at = time.monotonic()
        crowd.wait_for(len(crowd.accepted) + 1)
        print(f"\n503 after {answers}, /live after {max(probes):.3f} s at most")
        print(f"accepted again {time.monotonic() - thawed_at:.1f} s after it moved again")
    assert set(crowd.refused) <= {"503 unavailable"}, crowd.refused
    # Workers told the server, before it froze, that tasks begin; it does so when it wakes, when they are given up: the
    # init check (every five minutes) sees to such rows.
    manage("init_check", DATABASE_URL=server.url, **slow_platform.environment())
    print(settles(crowd, slow_platform, using="own"), crowd.refused)


@pytest.mark.parametrize("route", ["/v1/predict", "/async/v1/predict"])
def test_what_a_frozen_postgresql_does_not_answer_in_time_never_runs(
    serve: Serve, slow_platform: SlowPlatform, server: Postgres, route: str
) -> None:
    """Its caller is told that it failed, and sends it again. When the server wakes, it executes what it was sent."""
    bounds = {"DATABASE_TIMEOUT": "2", "DATABASE_POOL_SIZE": "1"}
    environment = {"DATABASE_URL": server.url, **bounds, **slow_platform.environment()}
    web = serve("web", **environment)

    def ask(number: int) -> int:
        return requests.post(f"{web.url}{route}", json=sleeping(0)(number), timeout=60).status_code

    assert ask(1) == 200
    server.freeze()
    assert ask(2) == 503
    server.thaw()
    assert ask(2) == 200
    manage("init_check", **environment)
    serve("worker", **environment)
    until(lambda: not Task.objects.using("own").unfinished().exists())
    assert Counter(call["n"] for call in slow_platform.calls()) == {1: 1, 2: 1}
    assert rows() == 2


def test_a_process_opens_no_more_connections_than_its_pool_may_have(
    serve: Serve, slow_platform: SlowPlatform, server: Postgres
) -> None:
    environment = {"DATABASE_URL": server.url, "DATABASE_POOL_SIZE": "3", **slow_platform.environment()}
    web = serve("web", WEB_CONCURRENCY="1", **environment)
    counts = []
    with (
        psycopg.connect(server.url, autocommit=True) as watcher,
        Callers(web.port, "/v1/predict", sleeping(0), count=32, keep_alive=True) as callers,
    ):
        while callers.answers["200"] < 1000:
            row = watcher.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE client_port IS NOT NULL AND pid <> pg_backend_pid()"
            ).fetchone()
            assert row
            counts.append(row[0])
            time.sleep(0.01)
    assert max(counts) == 3
    assert set(callers.answers) == {"200"}


@pytest.mark.parametrize("prepared", ["true", "false"])
def test_statements_are_prepared_unless_the_setting_says_otherwise(
    serve: Serve, server: Postgres, prepared: str
) -> None:
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute("ALTER SYSTEM SET log_statement = 'all'")
        admin.execute("SELECT pg_reload_conf()")
    environment = {"DATABASE_URL": server.url, "DATABASE_PREPARED_STATEMENTS": prepared}
    web = serve("web", **environment)
    serve("worker", **environment)
    for route in ("/v1/predict", "/async/v1/predict"):
        assert requests.post(f"{web.url}{route}", json=sleeping(0)(0), timeout=30).status_code == 200
    until(lambda: rows(status="succeeded") == 2)
    names = set(re.findall(r"execute (\S+): (?:INSERT|UPDATE)", server.log()))
    assert names
    assert all((name == "<unnamed>") == (prepared == "false") for name in names), names


@pytest.fixture
def file(tmp_path: Path) -> Iterator[str]:
    """A SQLite database; its URL."""
    url = f"sqlite:///{tmp_path / 'agent.sqlite3'}"
    with reachable_here(url):
        yield url


def test_many_writers_of_one_sqlite_file_wait_for_each_other(
    serve: Serve, slow_platform: SlowPlatform, file: str
) -> None:
    """Two web processes and two workers of 64 threads: nobody ever reads `database is locked`."""
    environment = {
        "MAX_QUEUE_SIZE": "5000",
        "WORKER_CONCURRENCY": "64",
        "DATABASE_URL": file,
        **slow_platform.environment(),
    }
    agents = [serve(process, **environment) for process in ("web", "web", "worker", "worker")]
    with (
        Crowd(agents[0].url, callers=16, pause_seconds=0, sleep=0.1) as crowd,
        Callers(agents[0].port, "/v1/predict", lambda n: sleeping(0.1)(n + 10**6), count=32, keep_alive=True) as first,
        Callers(agents[1].port, "/v1/predict", lambda n: sleeping(0.1)(n + 10**7), count=32, keep_alive=True) as second,
    ):
        began_at = time.monotonic()
        crowd.wait_for(1500)
        seconds = time.monotonic() - began_at
    assert not crowd.refused
    assert set(first.answers) | set(second.answers) == {"200"}
    in_all = Counter(settles(crowd, slow_platform, using="own"))
    assert in_all == {"succeeded": len(crowd.accepted) + first.answers["200"] + second.answers["200"]}
    assert not [agent for agent in agents if "locked" in agent.output()]
    print(f"\n{in_all['succeeded']} tasks, {len(crowd.accepted)} of them queued, in {seconds:.0f} s")


def test_a_write_lock_that_another_process_holds_for_long_holds_up_nobody_who_does_not_write(
    serve: Serve, slow_platform: SlowPlatform, file: str
) -> None:
    web = agent(serve, slow_platform, DATABASE_URL=file, WORKER_CONCURRENCY="16")
    with Crowd(web.url, callers=8, sleep=0.2) as crowd:
        crowd.wait_for(300)
        probes: list[float] = []
        with writing_elsewhere(file):
            accepted = len(crowd.accepted)
            for _ in range(100):
                asked_at = time.monotonic()
                assert requests.get(f"{web.url}/live", timeout=30).status_code == 200
                probes.append(time.monotonic() - asked_at)
                assert requests.get(f"{web.url}/task/{crowd.accepted[0]}", timeout=30).status_code == 200
                time.sleep(0.1)
            assert len(crowd.accepted) <= accepted + 8
        crowd.wait_for(accepted + 100)
    print(f"\n/live meanwhile: median {statistics.median(probes):.4f} s, worst {max(probes):.4f} s")
    assert not crowd.refused
    assert settles(crowd, slow_platform, using="own") == {"succeeded": len(crowd.accepted)}
    assert "locked" not in web.output()


@contextmanager
def writing_elsewhere(url: str) -> Iterator[None]:
    """Another process holds the file's write lock."""
    script = f"""
import sqlite3
connection = sqlite3.connect({url.removeprefix("sqlite:///")!r}, isolation_level=None, timeout=30)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield
        process.communicate("\n")
