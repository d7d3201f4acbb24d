"""Log lines of real processes: one JSON object each in production, with the ids that lead from one to the next."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import requests

from predictions.models import Task
from tests.helpers.servers import Server
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

PRODUCTION = {
    "ENVIRONMENT": "production",
    "SECRET_KEY": "Zq8-only-for-this-test-Xw3-long-enough-to-sign-with-0451",
    "API_KEYS": "caller-key",
    "ALLOW_ANONYMOUS": "false",
    "ALLOWED_HOSTS": "127.0.0.1",
    "LOG_LEVEL": "INFO",
}
CALLER = {"Authorization": "Bearer caller-key"}


def lines_of(server: Server) -> list[dict[str, Any]]:
    """Every line that it wrote; a line that is no JSON object fails."""
    lines = [json.loads(line) for line in server.output().splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    return lines


def test_every_line_of_a_request_and_of_its_task_carries_their_ids(serve: Callable[..., Server]) -> None:
    web, worker = serve("web", **PRODUCTION), serve("worker", **PRODUCTION)
    for number, route in enumerate(("/v1/predict", "/async/v1/predict")):
        answer = requests.post(
            f"{web.url}{route}",
            json={"model_name": "m", "inputs": {"x": 1}},
            headers={**CALLER, "X-Request-ID": f"find-me-{number}"},
            timeout=30,
        )
        assert answer.headers["X-Request-ID"] == f"find-me-{number}"
    until(lambda: Task.objects.filter(status="succeeded").count() == 2)
    sync, queued = (Task.objects.get(request_id=f"find-me-{number}") for number in (0, 1))

    def said(server: Server, task: Task) -> list[str]:
        of_it = [line for line in lines_of(server) if line.get("request_id") == task.request_id]
        assert {line["task_id"] for line in of_it if "task_id" in line} <= {task.pk}
        return [line["message"] for line in of_it]

    until(lambda: len(said(worker, queued)) >= 1)
    assert "task succeeded" in said(web, sync)
    assert "task submitted" in said(web, queued)
    assert "task succeeded" in said(worker, queued)
    for server in (web, worker):
        for line in lines_of(server):
            if str(line["message"]).startswith(("task ", "POST ")):
                assert line["request_id"] in ("find-me-0", "find-me-1")
            if str(line["message"]).startswith("task "):
                assert line["task_id"] in (sync.pk, queued.pk)


def test_a_local_model_that_fails_leaves_only_json_lines(serve: Callable[..., Server]) -> None:
    web = serve("web", **PRODUCTION)
    answers = [
        requests.post(
            f"{web.url}/v1/predict",
            json={"model_name": "m", "inputs": inputs},
            headers={**CALLER, "X-Request-ID": f"find-me-{number}"},
            timeout=30,
        )
        for number, inputs in enumerate(
            (
                {"raise": "ValueError", "message": "four numbers\nare needed"},
                {"raise": "ZeroDivisionError", "message": "by nought"},
            )
        )
    ]
    assert [answer.json()["code"] for answer in answers] == ["invalid_inputs", "platform_error"]

    refused, failed = (
        [line for line in lines_of(web) if line["logger"] == "platforms.local" and line["request_id"] == f"find-me-{n}"]
        for n in (0, 1)
    )
    assert [line["message"] for line in refused] == [
        "the local predictor refused its inputs: ValueError: four numbers are needed"
    ]
    assert "exception" not in refused[0]
    assert [line["level"] for line in failed] == ["error"]
    assert failed[0]["exception"].endswith("ZeroDivisionError: by nought")
