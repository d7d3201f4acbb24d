"""On which cores a worker's threads run."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from predictions.models import Task
from predictions.queue.overview import overview
from tests.e2e.faults import Crowd
from tests.helpers.servers import Server
from tests.helpers.slow_platform import SlowPlatform
from tests.helpers.waiting import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
        reason="a worker chooses between cores, of Linux, and here is one",
    ),
]

Serve = Callable[..., Server]


def cores(server: Server) -> list[frozenset[int]]:
    """For each thread of the process, those on which it may run."""
    found = []
    for thread in Path(f"/proc/{server.process.pid}/task").iterdir():
        with suppress(ProcessLookupError):  # it has ended
            found.append(frozenset(os.sched_getaffinity(int(thread.name))))
    return found


def test_all_threads_of_a_worker_run_on_one_core(serve: Serve, slow_platform: SlowPlatform) -> None:
    environment = {**slow_platform.environment(), "WORKER_CONCURRENCY": "16"}
    web, worker = serve("web", **environment), serve("worker", **environment)
    until(lambda: len(set(cores(worker))) == 1 and len(cores(worker)[0]) == 1)
    began_with = len(cores(worker))
    with Crowd(web.url, sleep=10) as crowd:
        crowd.wait_for(16)
    until(lambda: Task.objects.filter(status=Task.Status.RUNNING).count() >= 8)
    assert len(cores(worker)) >= began_with + 8
    until(lambda: len(set(cores(worker))) == 1)
    until(lambda: Task.objects.filter(status=Task.Status.SUCCEEDED).count() == len(crowd.accepted))


@pytest.mark.parametrize(
    "environment",
    [{"ML_PLATFORM": "local"}, {"WORKER_CPU_AFFINITY": "false", "ML_PLATFORM": "k8s", "K8SPLUGIN_ADDRESS": "m:80"}],
    ids=["local models", "as the setting says"],
)
def test_a_worker_runs_on_all_cores(serve: Serve, environment: dict[str, str]) -> None:
    worker = serve("worker", **environment)
    until(lambda: worker.process.pid in {known.pid for known in overview().workers})
    time.sleep(2)
    assert set(cores(worker)) == {frozenset(os.sched_getaffinity(0))}
