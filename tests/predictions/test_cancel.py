"""Cancelling, in every state and against every other move."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connections
from rest_framework.test import APIClient

from predictions import submission
from predictions.execution import runner
from predictions.models import Task
from predictions.queue import queue
from predictions.submission import PredictionRequest
from predictions.worker.runs import Run
from tests.helpers import predictors
from tests.helpers.api import submit
from tests.helpers.waiting import until
from tests.helpers.workers import new_worker


def test_a_canceled_task_is_never_run(client: APIClient, work: Callable[..., Any]) -> None:
    task_id = submit(client)
    response = client.post(f"/cancel/{task_id}")
    assert (response.status_code, response.json()) == (200, {"id": task_id})
    assert queue.sizes().waiting == 0
    work()
    assert predictors.calls == []
    assert client.get(f"/task/{task_id}").json()["status"] == "canceled"


def test_an_unknown_task_cannot_be_canceled(client: APIClient) -> None:
    response = client.post("/cancel/nobody")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("status", ["succeeded", "failed", "canceled"])
def test_an_ended_task_cannot_be_canceled(client: APIClient, status: str) -> None:
    task_id = submit(client)
    Task.objects.filter(pk=task_id).update(status=status)
    response = client.post(f"/cancel/{task_id}")
    assert (response.status_code, response.json()["code"], response.json()["status"]) == (
        409,
        "already_finished",
        status,
    )
    assert Task.objects.get().status == status


def test_a_running_task_is_stopped_and_stays_canceled(client: APIClient) -> None:
    task_id = submit(client, {"wait": True})
    worker = new_worker()
    thread = threading.Thread(target=worker.work, kwargs={"burst": True}, daemon=True)
    thread.start()
    until(lambda: predictors.calls)
    response = client.post(f"/cancel/{task_id}")
    assert (response.status_code, response.json()) == (202, {"id": task_id})
    thread.join(20)  # the predictor waits for a gate that never opens: only the cancellation ends it
    assert not thread.is_alive()
    assert client.get(f"/task/{task_id}").json()["status"] == "canceled"


def test_a_sync_prediction_that_is_canceled_is_answered_as_such(client: APIClient) -> None:
    with ThreadPoolExecutor() as pool:
        body = {"model_name": "iris", "inputs": {"wait": True}}
        answer = pool.submit(client.post, "/v1/predict", body, format="json")
        until(lambda: predictors.calls)
        assert client.post(f"/cancel/{Task.objects.get().pk}").status_code == 202
        response = answer.result(20)
        pool.submit(connections.close_all).result()
    assert (response.status_code, response.json()["code"]) == (409, "canceled")
    assert Task.objects.get().status == "canceled"


def test_cancel_works_while_redis_is_away(client: APIClient, redis_proxy: Any) -> None:
    task_id = submit(client)
    redis_proxy.cut()
    assert client.post(f"/cancel/{task_id}").status_code == 200
    assert Task.objects.get().status == "canceled"


def test_a_task_of_another_agent_is_not_canceled_here(client: APIClient) -> None:
    task = Task.objects.create(agent="", model_name="iris", status="running")
    response = client.post(f"/cancel/{task.pk}")
    assert (response.status_code, response.json()["code"]) == (409, "not_ours")
    assert Task.objects.get().status == "running"


def test_exactly_one_of_a_cancel_and_a_start_wins(client: APIClient, configured: Callable[..., None]) -> None:
    """A thousand races: a task canceled while pending never reaches the platform; every task ends in one state."""
    configured(MAX_QUEUE_SIZE=1000)
    races = 1000
    tasks = [
        submission.new_task(PredictionRequest(model_name="m", inputs={"n": n}), Task.Status.PENDING)
        for n in range(races)
    ]
    Task.objects.bulk_create(tasks)
    answers: dict[str, bool | str] = {}

    def cancel(task: Task) -> None:
        try:
            answers[task.pk] = submission.cancel(task.pk)
        except submission.AlreadyFinished as error:
            answers[task.pk] = error.status

    def start(task: Task) -> None:
        runner.run(task.pk, Run(task.pk, "r", "default", {}))

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(move, task) for task in tasks for move in (start, cancel)]:
            future.result()
        for _ in range(8):
            pool.submit(lambda: (time.sleep(0.05), connections.close_all()))

    reached = {tasks[call["n"]].pk for call in predictors.calls}
    assert len(predictors.calls) == len(reached)
    for task in Task.objects.all():
        answer = answers[task.pk]
        if answer is False:  # canceled while it was pending
            assert task.status == "canceled"
            assert task.pk not in reached
        elif answer is True:  # canceled while it ran
            assert task.status == "canceled"
        else:
            assert (task.status, answer) == ("succeeded", "succeeded")
    assert len(answers) == races
