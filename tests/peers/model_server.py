"""KServe's model server as a peer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.helpers.ports import free_port
from tests.helpers.virtualenvs import Environment
from tests.peers.peers import Peer

KSERVE = Environment("kserve", ("kserve==0.21.0", "scikit-learn==1.9.1"), pythons=("3.13", "3.12", "3.11"))
MODEL = Path(__file__).parent / "kserve_model.py"


class ModelServer(Peer):
    """tests/peers/kserve_model.py in its own environment, on a port of its own."""

    def __init__(self, directory: Path, options: Sequence[str] = ()) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self._calls = directory / "calls.jsonl"
        self._forgotten = 0
        super().__init__(
            [str(KSERVE.python), str(MODEL), f"--http_port={port}", "--enable_grpc=false", *options],
            url=f"http://{self.address}/v2/health/ready",
            log=directory / "kserve.log",
            environment={"CALLS": str(self._calls), "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        )

    def calls(self) -> list[dict[str, Any]]:
        """Every call of a model since `forget_calls`: `model`, `inputs`, `headers`, `at`. Outlives restarts."""
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        return [json.loads(line) for line in lines[self._forgotten :]]

    def forget_calls(self) -> None:
        self._forgotten += len(self.calls())
