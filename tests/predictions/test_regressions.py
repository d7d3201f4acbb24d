"""Small ways in which it once went wrong."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.core.checks import run_checks
from rest_framework.test import APIClient
from rq.defaults import RQ_KEY_PREFIX

from predictions import jobs, lifecycle, submission
from predictions.execution import runner
from predictions.lifecycle import InvalidTransition
from predictions.models import Task
from predictions.queue.scheduler import Scheduler
from predictions.redis.connections import get_redis
from predictions.worker.runs import Run
from tests.helpers.api import submit
from tests.helpers.stub import Stub, answers
from tests.helpers.workers import new_worker


def test_every_agent_on_a_redis_gets_its_own_maintenance(configured: Callable[..., None]) -> None:
    for name in ("one", "two"):
        configured(TASK_TYPE_NAME=name, MAINTENANCE_QUEUE=f"{name}-maintenance")
        scheduler = Scheduler()
        scheduler.every(1800, jobs.sweep_archive)
        scheduler.enqueue_jobs()
    assert (
        get_redis().llen(f"{RQ_KEY_PREFIX}:queue:one-maintenance")
        == get_redis().llen(f"{RQ_KEY_PREFIX}:queue:two-maintenance")
        == 1
    )


@pytest.mark.parametrize("task_id", ["a%00b", "x" * 65, "ü", "a%20b"])
def test_an_impossible_task_id_is_not_found(client: APIClient, task_id: str) -> None:
    assert client.get(f"/task/{task_id}").status_code == 404
    assert client.post(f"/cancel/{task_id}").status_code == 404


@pytest.mark.parametrize("name", ["model_name", "model_version"])
def test_half_a_character_is_no_name(client: APIClient, name: str) -> None:
    body = json.dumps({"model_name": "iris", "inputs": {}, name: "iris \ud800"})
    response = client.post("/v1/predict", body, content_type="application/json")
    assert (response.status_code, response.json()["field"]) == (400, name)


def test_a_version_may_be_null(client: APIClient) -> None:
    body = {"model_name": "m", "inputs": {}, "model_version": None}
    assert client.post("/v1/predict", body, format="json").json()["model_version"] == ""


def test_a_users_name_may_have_any_letters(client: APIClient) -> None:
    client.post(
        "/v1/predict", {"model_name": "m", "inputs": {}}, format="json", headers={"UID": "ü".encode().decode("latin-1")}
    )
    assert Task.objects.get().user_id == "ü"


def test_an_older_run_does_not_cancel_the_newer_ones_task(client: APIClient) -> None:
    task_id = submit(client)
    older = lifecycle.start(task_id, run_id="old")
    lifecycle.start(task_id, run_id="new", lost=["old"])
    with pytest.raises(InvalidTransition):
        lifecycle.cancel(older, by_run=True)
    assert Task.objects.get().status == "running"


def test_a_task_that_lost_two_workers_says_that_it_was_tried_twice(client: APIClient) -> None:
    task_id = submit(client)
    lifecycle.start(task_id, run_id="first")
    lifecycle.start(task_id, run_id="second", lost=["first"])
    runner.run(task_id, Run(task_id, "third", "default", {b"lost": b"first second "}))
    task = Task.objects.get()
    assert (task.status, task.attempt, task.error_info) == ("failed", 2, "its worker was lost 2 times")


def test_a_worker_that_redis_forgot_registers_again(client: APIClient) -> None:
    worker = new_worker()
    worker.register_birth()
    get_redis().flushall()
    submit(client)
    worker._claim(1)
    worker._supervisor.beat()
    assert get_redis().smembers(f"{RQ_KEY_PREFIX}:workers") == {worker.key.encode()}


@pytest.mark.parametrize(
    ("setting", "value", "number"),
    [
        ("TASK_TYPE_NAME", "a b", "E004"),
        ("TASK_TYPE_NAME", "default-maintenance", "E006"),
        ("REDIS_ADDRESS", "foo:bar", "E007"),
        ("ML_PLATFORM", "nope", "E010"),
        ("TASK_TIMEOUT", 100, "E011"),
        ("ML_PLATFORM", "kserve", "E012"),
        ("LOCAL_PREDICTOR", "nowhere:predict", "E013"),
    ],
)
def test_a_wrong_setting_is_refused_with_a_hint(
    configured: Callable[..., None], setting: str, value: Any, number: str
) -> None:
    configured(**{setting: value})
    (found,) = [message for message in run_checks() if message.id == f"agent.{number}"]
    assert found.hint


def test_production_refuses_the_defaults(configured: Callable[..., None], settings: Any) -> None:
    configured(
        PRODUCTION=True,
        SECRET_KEY=settings.INSECURE_SECRET_KEY,
        ALLOWED_HOSTS=[],
        ALLOW_ANONYMOUS=False,
        DATABASE_CHOSEN=False,
    )
    ids = {message.id for message in run_checks()}
    assert {"agent.E020", "agent.E021", "agent.E022", "agent.E024"} <= ids
    configured(DEBUG=True)
    assert "agent.E023" in {message.id for message in run_checks()}


@pytest.mark.parametrize(
    ("setting", "value", "number"), [("SHUTDOWN_DELAY_CHOSEN", True, "W003"), ("ALLOW_ANONYMOUS", False, "W005")]
)
def test_a_doubtful_setting_is_warned_of_and_does_not_stop_the_start(
    configured: Callable[..., None], setting: str, value: Any, number: str
) -> None:
    configured(**{setting: value})
    found = [message for message in run_checks() if message.id.startswith("agent.")]
    assert [(message.id, message.is_serious(), bool(message.hint)) for message in found] == [
        (f"agent.{number}", False, True)
    ]


@pytest.mark.parametrize(
    "how",
    [
        "canceled while it is queued again",
        "deleted with all that waits",
        "canceled before its job is taken",
        "given up",
    ],
)
def test_the_platforms_job_is_canceled_though_no_caller_waits(
    client: APIClient, configured: Callable[..., None], work: Callable[..., Any], how: str
) -> None:
    stub = Stub()
    arguments = {"address": stub.url, "api_key": "k", "endpoint": "e", "timeout_seconds": 5.0}
    configured(ML_PLATFORM="runpod", PLATFORMS={"runpod": ("platforms.runpod.RunPod", arguments)})
    stub.script("POST /e/cancel/up-1", answers({"id": "up-1", "status": "CANCELLED"}))
    task_id = submit(client)
    Task.objects.update(status="running" if how == "given up" else "pending", attempt=1, upstream_id="up-1")
    if how == "given up":
        runner.give_up(task_id, "lost")
    elif how == "canceled while it is queued again":
        assert client.post(f"/cancel/{task_id}").status_code == 200
    elif how == "deleted with all that waits":
        assert submission.cancel_pending() == (1, 1)
    else:
        Task.objects.update(status="canceled")
        work()
    assert stub.count("POST /e/cancel/up-1") == 1
    assert stub.count("POST /e/run") == 0
    assert Task.objects.get().upstream_cancel == "canceled"
    stub.close()
