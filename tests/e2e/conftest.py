"""Real processes: the agent's, and a slow platform."""

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.helpers import environment
from tests.helpers.redis_topologies import Cluster, Single
from tests.helpers.servers import ROOT, free_port

# What only some kinds of Redis can do is not collected on the others: nobody is elected where there is one server.
collect_ignore = [
    *(["test_failover.py"] if isinstance(environment.servers, Single) else []),
    *([] if isinstance(environment.servers, Cluster) else ["test_resharding.py"]),
]


class SlowPlatform:
    """tests.e2e.slow_platform as a process."""

    def __init__(self) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self.process = subprocess.Popen([sys.executable, "-m", "tests.e2e.slow_platform", str(port)], cwd=ROOT)
        for _ in range(200):
            try:
                self.calls()
                return
            except requests.ConnectionError:
                time.sleep(0.05)
        raise AssertionError("the slow platform did not start")

    def calls(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = requests.get(f"http://{self.address}/calls", timeout=10).json()
        return found

    def environment(self) -> dict[str, str]:
        return {"ML_PLATFORM": "k8s", "K8SPLUGIN_ADDRESS": self.address}

    def as_kserve(self) -> dict[str, str]:
        """The same as a model server that can stream."""
        return {"ML_PLATFORM": "kserve", "KSERVE_ADDRESS": self.address}

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def slow_platform() -> Iterator[SlowPlatform]:
    platform = SlowPlatform()
    yield platform
    platform.close()
