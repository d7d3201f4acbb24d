"""schemathesis, with all its checks, asks real servers what /openapi.json says of them."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from predictions.uploads import upload_address
from tests.helpers.factories import TaskFactory
from tests.helpers.servers import ROOT, Server
from tests.helpers.stub import Stub, Visit, answers

pytestmark = pytest.mark.slow

Serve = Callable[..., Server]
KEYS = {"API_KEYS": "caller-key", "METRICS_KEY": "metrics-key", "ALLOW_ANONYMOUS": "false"}


@pytest.fixture
def runpod() -> Iterator[dict[str, str]]:
    """A platform that streams whatever the model's name is: three pieces for each job, the last one no text."""
    stub = Stub()
    pieces = [{"output": "upon"}, {"output": " a\ntime"}, {"output": {"end": True}}]
    waiting: list[dict[str, Any]] = []

    def run(visit: Visit) -> None:
        waiting[:] = pieces
        answers({"id": "job", "status": "IN_QUEUE"})(visit)

    def stream(visit: Visit) -> None:
        answers({"status": "COMPLETED", "stream": list(waiting)})(visit)
        waiting.clear()

    stub.script("POST /v2/any/run", run)
    stub.script("GET /v2/any/stream/job", stream)
    stub.script("GET /v2/any/status/job", answers({"id": "job", "status": "COMPLETED"}))
    yield {
        "ML_PLATFORM": "runpod",
        "RUNPOD_ADDRESS": f"{stub.url}/v2",
        "RUNPOD_MODEL_ID": "any",
        "RUNPOD_APIKEY": "runpod-key",
    }
    stub.close()


def schemathesis(web: Server, directory: Path, *options: str, **values: str) -> dict[str, Any]:
    """Runs schemathesis against `web`; its report. Raises AssertionError with its output if a check fails."""
    report = directory / "report.json"
    program = [Path(sys.executable).with_name("schemathesis"), "--config-file", ROOT / "tests/e2e/schemathesis.toml"]
    arguments = ["run", f"{web.url}/openapi.json", "--checks", "all", "--report", "json", "--report-json-path", report]
    known = {"OPERATOR_KEY": "operator-key", "RECORD_KEY": "record-key", "METRICS_KEY": "metrics-key"}
    ended = subprocess.run(
        [*program, *arguments, *options],
        cwd=directory,
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": "tests.e2e.schemathesis_hooks",
            "PYTHONPATH": str(ROOT),
            "UPLOAD_TOKEN": "none",
            "FILE_NAME": "none",
            **known,
            **values,
        },
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}\n{web.output()[-5000:]}"
    told: dict[str, Any] = json.loads(report.read_text())
    print(f"{told['test_cases']['generated']} requests in {told['running_time']:.0f} s")
    return told


def answers_of(web: Server) -> dict[str, Counter[int]]:
    """Operation id → how often it answered with each status, by the agent's own log (which leaves out probes)."""
    paths = requests.get(f"{web.url}/openapi.json", timeout=30).json()["paths"]
    patterns = {
        (method.upper(), re.compile(re.sub(r"\\\{\w+\\\}", "[^/].*", re.escape(path)))): operation["operationId"]
        for path, operations in paths.items()
        for method, operation in operations.items()
    }
    found: dict[str, Counter[int]] = {name: Counter() for name in patterns.values()}
    for method, path, status in re.findall(r"requests: (\w+) (.*?) (\d{3}) [\d.]+ms", web.output()):
        name = next(
            (name for (verb, path_like), name in patterns.items() if verb == method and path_like.fullmatch(path)), None
        )
        if name:
            found[name][int(status)] += 1
    return found


def assert_thorough(report: dict[str, Any], web: Server, *operations: str) -> None:
    """Every phase came to its end, and each of the operations (all, if none is named) was also taken at its word."""
    assert report["complete"]
    assert report["operations"]["errored"] == 0
    assert {phase["status"] for phase in report["phases"].values()} == {"success"}
    answered = answers_of(web)
    for name, statuses in answered.items():
        print(f"{name}: {dict(sorted(statuses.items()))}")
    succeeded = {name for name, statuses in answered.items() if any(200 <= status < 300 for status in statuses)}
    assert set(operations or answered) - {"live", "ready", "getMetrics"} <= succeeded


def test_the_agent_behaves_as_documented(serve: Serve, tmp_path: Path) -> None:
    web = serve("web", LOCAL_PREDICTOR="tests.helpers.obliging_predictor:predict", **KEYS)
    serve("worker", LOCAL_PREDICTOR="tests.helpers.obliging_predictor:slowly", WORKER_CONCURRENCY="1", **KEYS)
    painting = TaskFactory(model_name="painter", status="running")
    token = upload_address(painting.pk).split("/u/")[1].split("/")[0]
    kept = requests.post(f"{web.url}/u/{token}/upload", files={"file": b"a picture"}, timeout=30).json()
    name = kept["url"].split("/media/")[1]
    # The local platform does not stream: the other test asks.
    report = schemathesis(web, tmp_path, "--exclude-operation-id", "generate", UPLOAD_TOKEN=token, FILE_NAME=name)
    # Whether a cancel comes before the task has ended, or was deleted with all that wait, is a matter of time.
    assert_thorough(report, web, *(answers_of(web).keys() - {"generate", "cancelTask"}))


def test_streams_behave_as_documented(serve: Serve, runpod: dict[str, str], tmp_path: Path) -> None:
    web = serve("web", **KEYS, **runpod)
    only = ("--include-operation-id", "generate", "--include-operation-id", "getTask", "--max-examples", "25")
    report = schemathesis(web, tmp_path, *only)
    assert_thorough(report, web, "generate", "getTask")
