"""Cog's real runtime (coglet) and Replicate's real client as peers, around tests/peers/replicate_gateway.py."""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import requests

from tests.helpers.ports import free_port
from tests.helpers.virtualenvs import Environment
from tests.peers.peers import KEPT, Peer
from tests.peers.replicate_gateway import KEY, Gateway

COG = Environment("cog", ("cog==0.23.1",), pythons=("3.13", "3.12", "3.11", "3.10"))
REPLICATE = Environment("replicate", ("replicate==1.0.7",), pythons=("3.13", "3.12", "3.11", "3.10"))
PREDICTOR = Path(__file__).parent / "cog_predictor.py"
CLIENT = Path(__file__).parent / "replicate_client.py"
TEXT, NUMBER = {"type": "string"}, {"type": "number"}
# The schema that `cog build` writes. Coglet validates inputs against it, and streams nothing without it.
INPUTS: dict[str, dict[str, Any]] = {
    "Answers": {"mood": TEXT, "name": TEXT, "say": {}, "seconds": NUMBER},
    "Streams": {
        "pieces": {"type": "array", "items": TEXT},
        "name": TEXT,
        "pause": NUMBER,
        "raise_at": {"type": "integer"},
        "hang": {"type": "boolean"},
    },
}
PIECES = {"type": "array", "items": TEXT, "x-cog-array-type": "iterator", "x-cog-array-display": "concatenate"}


class Cog(Peer):
    """One class of tests/peers/cog_predictor.py in coglet, on a port of its own."""

    def __init__(self, directory: Path, predictor: str) -> None:
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        self._events = directory / "events.jsonl"
        self._gate = directory / "gate"
        _write_schema(directory / ".cog", predictor)
        super().__init__(
            [str(COG.python), "-m", "cog.server.http", "--host", "127.0.0.1"],
            url=f"{self.address}/health-check",
            log=directory / "cog.log",
            environment={
                "PATH": f"{COG.python.parent}:{os.environ['PATH']}",
                "HOME": str(directory),
                "PORT": str(port),
                "COG_PREDICT_TYPE_STUB": f"{PREDICTOR}:{predictor}",
                "COG_MAX_CONCURRENCY": "32" if predictor == "Answers" else "1",
                "COG_THROTTLE_RESPONSE_INTERVAL": "0",
                "EVENTS": str(self._events),
                "GATE": str(self._gate),
                "PYTHONUNBUFFERED": "1",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        )

    def start(self) -> None:
        super().start()
        deadline = time.monotonic() + 60
        while (status := requests.get(self.url, timeout=5).json()["status"]) != "READY":
            assert "FAILED" not in status, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.05)

    def events(self, what: str) -> list[str]:
        """`input.name` of the predictions that were `started` or `stopped`, in their order."""
        lines = self._events.read_text().splitlines() if self._events.exists() else []
        return [event["name"] for event in map(json.loads, lines) if event["what"] == what]

    def open_gate(self) -> None:
        self._gate.touch()

    def close_gate(self) -> None:
        self._gate.unlink(missing_ok=True)


def _write_schema(directory: Path, predictor: str) -> None:
    streams = predictor == "Streams"
    inputs = {"type": "object", "properties": INPUTS[predictor], "required": ["pieces"] if streams else []}
    schema = {
        "openapi": "3.0.2",
        "info": {"title": "Cog", "version": "0.1.0"},
        "paths": {"/predictions": {"post": {"x-cog-streaming": streams}}},
        "components": {"schemas": {"Input": inputs, "Output": PIECES if streams else {}}},
    }
    directory.mkdir()
    (directory / "openapi_schema.json").write_text(json.dumps(schema))


def outcomes(gateway: Gateway, cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What Replicate's real client makes of the cases, all at once; see tests/peers/replicate_client.py."""
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    ended = subprocess.run(
        [str(REPLICATE.python), str(CLIENT)],
        input=json.dumps(cases),
        env={**environment, "KEY": KEY, "BASE_URL": gateway.origin, "PYTHONDONTWRITEBYTECODE": "1"},
        text=True,
        capture_output=True,
        timeout=90,
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found
