"""Signals and faults while a process starts.

At SIGTERM it exits at once. If Redis goes away, it goes on once Redis is back.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rq import cron_scheduler_registry
from rq.worker import BaseWorker

from predictions.redis.connections import get_redis
from tests.helpers import environment
from tests.helpers.ports import free_port
from tests.helpers.proxy import Proxy
from tests.helpers.servers import ROOT, Server, database_url, procfile
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("process", ["web", "worker", "scheduler"])
def test_a_starting_process_ends_at_sigterm(process: str) -> None:
    """At many moments: before Python listens to signals, while gunicorn forks, while Django is loaded, and after."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DATABASE_URL": database_url(),
        "BIND": f"127.0.0.1:{free_port()}",
    }
    took = []
    for step in range(8):
        started = subprocess.Popen(
            ["sh", "-c", f"exec env {procfile()[process]}"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            time.sleep(0.2 + step * 0.14)
            started.send_signal(signal.SIGTERM)
            began = time.monotonic()
            started.wait(60)
            took.append(time.monotonic() - began)
        finally:
            if started.poll() is None:
                os.killpg(started.pid, signal.SIGKILL)
                started.wait()
    print(f"\n{process} ended {max(took):.1f} s or less after SIGTERM")


@pytest.mark.parametrize("process", ["worker", "scheduler"])
def test_a_process_begins_once_redis_is_back(process: str, serve: Callable[..., Server]) -> None:
    """Whichever of its first commands is the last to be answered."""
    proxies = [Proxy(environment.servers.master().address) for _ in range(8)]
    started = []
    for answered, proxy in enumerate(proxies):
        proxy.requests_left = answered
        started.append(
            serve(
                process,
                REDIS_ADDRESS=proxy.address,
                REDIS_CLUSTER_MODE="false",
                REDIS_SENTINELS="",
                REDIS_SENTINEL_MASTER="",
                TASK_TYPE_NAME=f"agent-{answered}",
            )
        )
    until(lambda: all(proxy.requests_left <= 0 for proxy in proxies))
    time.sleep(1)
    for proxy in proxies:
        proxy.mend()
    until(lambda: known(process) == len(started) or any(one.process.poll() is not None for one in started))
    assert [one.output() for one in started if one.process.poll() is not None] == []


def known(process: str) -> int:
    """How many of them have signed on."""
    if process == "worker":
        return BaseWorker.count(connection=get_redis())
    return get_redis().zcard(cron_scheduler_registry.get_registry_key())
