"""The slow platform as a process."""

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import requests

from tests.helpers.ports import free_port
from tests.helpers.servers import ROOT


class SlowPlatform:
    """Runs tests/helpers/slow_platform_server.py."""

    def __init__(self) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        command = [sys.executable, "-m", "tests.helpers.slow_platform_server", str(port)]
        self.process = subprocess.Popen(command, cwd=ROOT)
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
        """Settings for the same server under KServe's paths, where it can stream."""
        return {"ML_PLATFORM": "kserve", "KSERVE_ADDRESS": self.address}

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def sleeping(seconds: float, **more: object) -> Callable[[int], dict[str, object]]:
    """Makes request bodies whose predictions take `seconds`, for `Crowd` and `Callers`."""
    return lambda number: {"model_name": "m", "inputs": {"n": number, "sleep": seconds, **more}}
