"""The memory of each process, at rest and at work, against the table of docs/deploying.md."""

import platform
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from predictions.models import Task
from predictions.queue.overview import overview
from predictions.queue.scheduler import is_alive
from tests.e2e.callers import Callers
from tests.e2e.faults import Crowd
from tests.helpers.pages import DEPLOYING, table
from tests.helpers.servers import Server
from tests.helpers.slow_platform import SlowPlatform, sleeping
from tests.helpers.waiting import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        (sys.version_info[:2], platform.machine()) != ((3, 11), "x86_64"),
        reason="the page's figures are of Python 3.11 on x86-64",
    ),
]

Serve = Callable[..., Server]
TOLERANCE = 0.25
TABLE = {row[0].split()[0]: row[1:] for row in table("process | memory at rest", DEPLOYING)}


def family(pid: int) -> list[int]:
    """The process and its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]


def memory_mb(server: Server) -> float:
    """The sum over its processes: each one's private memory and its share of shared memory (PSS)."""
    rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in family(server.process.pid)]
    return sum(int(re.findall(r"^Pss: +(\d+) kB$", rollup, re.MULTILINE)[0]) for rollup in rollups) / 1024


def says(cell: str, measured: float) -> bool:
    """Whether a cell's figure is that, roughly."""
    (documented,) = re.findall(r"(\d+) MB", cell)
    print(f"\n{measured:.0f} MB measured, {documented} MB documented")
    return abs(measured - int(documented)) <= TOLERANCE * int(documented)


def test_a_web_process_takes_the_documented_memory(serve: Serve, slow_platform: SlowPlatform) -> None:
    web = serve("web", WEB_CONCURRENCY="2", **slow_platform.environment())
    requests.get(f"{web.url}/ready", timeout=30)
    assert "(2 processes)" in DEPLOYING
    assert says(TABLE["web"][0], memory_mb(web))

    with Callers(web.port, "/v1/predict", sleeping(0.1), count=50, keep_alive=True) as warming_up:
        until(lambda: warming_up.answers["200"] >= 200)
    before = memory_mb(web)
    with Callers(web.port, "/v1/predict", sleeping(20), count=400, keep_alive=True) as callers:
        until(lambda: Task.objects.filter(status="running").count() == 400)
        callers.stop_asking()
        each = (memory_mb(web) - before) / 400
    print(f"{each:.3f} MB for each prediction that waits")
    (most,) = re.findall(r"less than ([\d.]+) MB", TABLE["web"][1])
    assert each < float(most)


def test_a_worker_takes_the_documented_memory(serve: Serve, slow_platform: SlowPlatform) -> None:
    (slots,) = re.findall(r"with (\d+) tasks", TABLE["worker"][1])
    environment = {"WORKER_CONCURRENCY": slots, "MAX_QUEUE_SIZE": "1000", **slow_platform.environment()}
    web, worker = serve("web", **environment), serve("worker", **environment)
    until(lambda: overview().workers)
    assert says(TABLE["worker"][0], memory_mb(worker))
    with Crowd(web.url, sleep=8) as crowd:
        crowd.wait_for(int(slots))
    until(lambda: Task.objects.filter(status="running").count() == int(slots))
    assert says(TABLE["worker"][1], memory_mb(worker))


def test_a_scheduler_takes_the_documented_memory(serve: Serve) -> None:
    scheduler = serve("scheduler")
    until(is_alive)
    assert says(TABLE["scheduler"][0], memory_mb(scheduler))
