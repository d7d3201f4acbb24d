"""RunPod's real worker and real client (`runpod`, the same package) as peers, around tests/peers/runpod_cloud.py."""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.helpers.virtualenvs import Environment
from tests.peers.peers import KEPT, Peer
from tests.peers.runpod_cloud import KEY, WORKER_KEY, Cloud

RUNPOD = Environment("runpod", ("runpod==1.12.0",), pythons=("3.13", "3.12", "3.11", "3.10"))
HANDLER = Path(__file__).parent / "runpod_handler.py"
CLIENT = Path(__file__).parent / "runpod_client.py"
POD_HOST = "pod-7f.internal"


class Worker(Peer):
    """tests/peers/runpod_handler.py, which takes the jobs of one endpoint of the cloud."""

    def __init__(self, directory: Path, cloud: Cloud, endpoint: str, *options: str) -> None:
        self._cloud = cloud
        self._pod = f"pod-{endpoint}"
        self._events = directory / f"{endpoint}.jsonl"
        self._gate = directory / f"{endpoint}.gate"
        base = f"{cloud.address}/{endpoint}"
        super().__init__(
            [str(RUNPOD.python), str(HANDLER), *options],
            url=f"{base}/health",  # a worker has no server; `start` waits for its heartbeat
            log=directory / f"{endpoint}.log",
            environment={
                "HOME": str(directory),
                "EVENTS": str(self._events),
                "GATE": str(self._gate),
                "PYTHONUNBUFFERED": "1",
                "PYTHONDONTWRITEBYTECODE": "1",
                "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu=none",
                "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
                "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=none",
                "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID?gpu=none",
                "RUNPOD_POD_ID": self._pod,
                "RUNPOD_POD_HOSTNAME": POD_HOST,
                "RUNPOD_AI_API_KEY": WORKER_KEY,
                "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
                "RUNPOD_SKIP_GPU_CHECK": "true",
            },
        )

    def start(self) -> None:
        super().start()
        deadline = time.monotonic() + 60
        while self._pod not in self._cloud.pods:
            assert self.process is not None
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.05)

    def events(self, what: str) -> list[str]:
        """The ids of the jobs whose handler was `started` or `stopped`, in their order."""
        lines = self._events.read_text().splitlines() if self._events.exists() else []
        return [event["job"] for event in map(json.loads, lines) if event["what"] == what]

    def open_gate(self) -> None:
        self._gate.touch()

    def close_gate(self) -> None:
        self._gate.unlink(missing_ok=True)


def outcomes(cloud: Cloud, cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What RunPod's real client makes of the cases, all at once; see tests/peers/runpod_client.py."""
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    ended = subprocess.run(
        [str(RUNPOD.python), str(CLIENT)],
        input=json.dumps(cases),
        env={**environment, "KEY": KEY, "RUNPOD_ENDPOINT_BASE_URL": cloud.address, "PYTHONDONTWRITEBYTECODE": "1"},
        text=True,
        capture_output=True,
        timeout=90,
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found
