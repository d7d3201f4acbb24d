"""Clocks stepped by an hour, forward and back, on Redis and on each kind of process, while hundreds of tasks run."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import requests
from rq.defaults import RQ_KEY_PREFIX

from predictions import submission
from predictions.models import Task
from predictions.queue import queue
from predictions.queue.scheduler import enqueue_once
from predictions.redis.connections import forget_connections, get_redis
from predictions.submission import PredictionRequest
from predictions.worker.bookkeeping import Bookkeeping
from predictions.worker.runs import INIT_CHECK, Ending
from tests.e2e.databases import Postgres, reachable_here
from tests.e2e.faults import Crowd, settles
from tests.e2e.own_redis import OwnRedis
from tests.helpers.servers import ROOT, Server, environment_of
from tests.helpers.slow_platform import SlowPlatform
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

TASKS = 320
HOUR = 3600


class Clock:
    """The wall clock of the processes that are started in `environment`; their other clocks stay true."""

    def __init__(self, directory: Path) -> None:
        assert shutil.which("cc"), "there is no C compiler here (Debian: apt install build-essential)"
        library = directory / "stepped_clock.so"
        source = ROOT / "tests/e2e/stepped_clock.c"
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
        self._file = directory / "offset"
        self._file.write_bytes(bytes(8))
        self.environment = {"LD_PRELOAD": str(library), "STEPPED_CLOCK_FILE": str(self._file)}

    def step(self, seconds: int) -> None:
        with self._file.open("r+b") as file:
            file.write(seconds.to_bytes(8, "little", signed=True))


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


@pytest.fixture
def redis_server(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock, configured: Callable[..., None]
) -> Iterator[OwnRedis]:
    who = request.node.callspec.params["who"]
    (tmp_path / "redis").mkdir()
    server = OwnRedis(tmp_path / "redis", environment={**os.environ, **clock.environment} if who == "redis" else None)
    configured(REDIS_ADDRESS=server.address, ML_PLATFORM="k8s", MAX_QUEUE_SIZE=10000)
    forget_connections()
    yield server
    server.end()
    forget_connections()


@pytest.mark.parametrize("step", [HOUR, -HOUR])
@pytest.mark.parametrize("who", ["redis", "worker", "web and scheduler"])
def test_a_step_of_the_clock_loses_nothing_and_runs_nothing_twice(
    serve: Callable[..., Server],
    slow_platform: SlowPlatform,
    redis_server: OwnRedis,
    clock: Clock,
    who: str,
    step: int,
) -> None:
    common = {
        **slow_platform.environment(),
        "WORKER_CONCURRENCY": "64",
        "MAX_QUEUE_SIZE": "10000",
        "REDIS_ADDRESS": redis_server.address,
    }
    stepped = {**common, **clock.environment}
    retried = wait_for_retry(n=-1)
    web = serve("web", **(stepped if who.startswith("web") else common))
    serve("scheduler", **(stepped if who.startswith("web") else common))
    serve("worker", **common)
    serve("worker", **(stepped if who == "worker" else common))
    sync = Crowd(web.url, route="/v1/predict", callers=8, first=10_000, sleep=8)
    with Crowd(web.url, sleep=4) as crowd, sync:
        to_cancel = submit(n=-2, sleep=120)
        crowd.wait_for(TASKS // 2)
        until(lambda: Task.objects.get(pk=to_cancel).status == "running")
        until(lambda: get_redis().exists(f"{RQ_KEY_PREFIX}:tick:default"))  # some worker has looked at the clock before
        clock.step(step)
        stepped_at = time.monotonic()
        enqueue_once(INIT_CHECK, turn_seconds=1)
        assert "failed" not in init_check(common if who == "redis" else stepped)
        assert requests.post(f"{web.url}/cancel/{to_cancel}", timeout=30).status_code == 202
        crowd.wait_for(TASKS)
        crowd.stop()
        until(lambda: len(sync.accepted) >= 16)
        sync.stop()
        until(lambda: Task.objects.get(pk=retried).status == "succeeded", seconds=90)
        print(f"\n{who}, {step:+d} s: tasks due within 30 s ran {time.monotonic() - stepped_at:.0f} s after it")
    statuses = settles(crowd, slow_platform)
    assert crowd.refused + sync.refused == Counter()
    assert not set(Task.objects.filter(status="failed").values_list("error_info", flat=True))
    assert statuses == {"succeeded": len(crowd.accepted) + len(sync.accepted) + 1, "canceled": 1}
    assert set(Task.objects.values_list("attempt", flat=True)) == {1}


def submit(**inputs: int) -> str:
    return submission.submit(PredictionRequest(model_name="m", inputs=inputs)).pk


def init_check(environment: dict[str, str]) -> str:
    """The command's output under that environment's clock."""
    command = [sys.executable, "manage.py", "init_check"]
    return subprocess.run(
        command, cwd=ROOT, env=environment_of(**environment), capture_output=True, text=True, check=True, timeout=60
    ).stdout


def wait_for_retry(**inputs: int) -> str:
    """A task whose job waits, for half a minute, to be run again."""
    task_id = submit(**inputs)
    books = Bookkeeping("earlier")
    (run,), _ = books.claim("default", 1)
    get_redis().hset(f"{RQ_KEY_PREFIX}:job:{task_id}", "record_retries", 10)
    assert not books.end([Ending(run, "scheduled")])
    assert queue.sizes() == queue.Sizes(waiting=1, running=0)
    return task_id


@pytest.fixture
def stepped_postgresql(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Postgres, Clock]]:
    """A server with an adjustable clock. Its account must be able to read the preloaded library."""
    directory = Path(tempfile.mkdtemp(prefix="agent-clock-"))
    directory.chmod(0o755)
    clock = Clock(directory)
    with monkeypatch.context() as environment:
        for name, value in clock.environment.items():
            environment.setenv(name, value)
        server = Postgres()
    with reachable_here(server.url):
        yield server, clock
    server.close()
    shutil.rmtree(directory)


def test_a_postgresql_whose_clock_is_set_takes_new_tasks_as_before(
    serve: Callable[..., Server], stepped_postgresql: tuple[Postgres, Clock]
) -> None:
    """The agent creates a task by a deadline of the server's clock; a step of that clock refuses no task."""
    server, clock = stepped_postgresql
    web = serve("web", DATABASE_URL=server.url, MAX_QUEUE_SIZE="1000")
    made = 0
    for step in (0, HOUR, 0, -HOUR):
        clock.step(step)
        assert abs(clock_of(server) - time.time() - step) < 60
        for route in ("/v1/predict", "/async/v1/predict") * 10:
            answer = requests.post(f"{web.url}{route}", json={"model_name": "m", "inputs": {}}, timeout=30)
            assert answer.status_code == 200, answer.text
            made += 1
    assert Task.objects.using("own").count() == made


def clock_of(server: Postgres) -> float:
    with psycopg.connect(server.url) as session:
        row = session.execute("SELECT extract(epoch FROM clock_timestamp())").fetchone()
    assert row is not None
    return float(row[0])
