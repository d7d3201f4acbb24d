"""Tasks that wait in the queue again because their worker requeued them or was lost: their rows and the API."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import OperationalError, connection
from rest_framework.test import APIClient

from predictions import jobs, lifecycle
from predictions.execution import runner
from predictions.models import Task
from predictions.queue import queue
from predictions.recorder import Change, RecordUnavailable, get_recorder
from predictions.redis.connections import get_redis
from predictions.worker.runs import Run
from tests.helpers import predictors
from tests.helpers.api import submit
from tests.helpers.leases import begin, claim, hand_back, lapse_leases, tick
from tests.helpers.makers import RUNPOD
from tests.helpers.stub import Stub
from tests.helpers.waiting import until
from tests.helpers.workers import new_worker
from tests.predictions.commands import run as manage


def find_again_as_a_worker_does() -> None:
    """The leases of a killed worker have lapsed, and another worker looks after the queue."""
    tick()
    lapse_leases()
    new_worker()._supervisor.tend_queues()
    until(lambda: not any(thread.name == "put_back" for thread in threading.enumerate()))


def take() -> Run:
    """A worker takes a task and begins it."""
    (run,) = claim()
    begin(run)
    return run


def lose_a_worker(run: Run | None = None) -> str:
    """A worker is killed in mid-prediction; its task."""
    run = run or take()
    find_again_as_a_worker_does()
    return run.job_id


def give_one_back(run: Run | None = None) -> str:
    """A worker requeues a task when it stops."""
    run = run or take()
    runner.put_back([(run.job_id, run.execution_id)], lost=False)
    hand_back(run)
    return run.job_id


def row(task_id: str) -> tuple[str, int]:
    task = Task.objects.get(pk=task_id)
    return task.status, task.attempt


@pytest.mark.parametrize("comes_back", [lose_a_worker, give_one_back])
def test_a_task_that_waits_again_says_pending_and_keeps_its_attempt(
    client: APIClient, comes_back: Callable[[], str]
) -> None:
    submit(client)
    task_id = comes_back()
    assert queue.waiting_ids() == [task_id]
    answer = client.get(f"/task/{task_id}").json()
    assert (answer["status"], answer["attempt"]) == ("pending", 1)


def test_the_next_run_is_another_attempt_only_after_a_lost_worker(client: APIClient, work: Callable[..., Any]) -> None:
    submit(client)
    task_id = give_one_back()
    assert begin(*claim()).attempt == 1
    find_again_as_a_worker_does()
    assert row(task_id) == ("pending", 1)
    give_one_back()
    assert row(task_id) == ("pending", 2)
    work()
    assert row(task_id) == ("succeeded", 2)
    assert len(predictors.calls) == 1


@pytest.mark.parametrize(("noted", "submissions"), [("job-1", 0), ("", 1)])
def test_the_next_attempt_waits_for_the_platforms_job_only_where_its_id_was_noted(
    client: APIClient, work: Callable[..., Any], configured: Callable[..., None], noted: str, submissions: int
) -> None:
    stub = Stub()
    RUNPOD.script(stub, RUNPOD.job("succeeded", output="done"))
    arguments = {"address": f"{stub.url}/v2", "api_key": "k", "endpoint": "ep1", "timeout_seconds": 5.0}
    configured(ML_PLATFORM="runpod", PLATFORMS={"runpod": ("platforms.runpod.RunPod", arguments)})
    submit(client)
    task_id = lose_a_worker()
    Task.objects.update(upstream_id=noted)
    work()
    assert row(task_id) == ("succeeded", 2)
    assert stub.count(RUNPOD.submit) == submissions
    stub.close()


def test_a_task_that_lost_two_workers_fails(client: APIClient, work: Callable[..., Any]) -> None:
    submit(client)
    lose_a_worker()
    task_id = lose_a_worker()
    assert row(task_id) == ("pending", 2)
    work()
    assert row(task_id) == ("failed", 2)
    assert Task.objects.get().error_info == "its worker was lost 2 times"
    assert predictors.calls == []


def test_delete_pending_cancels_all_that_wait_however_they_came_there(client: APIClient, operator: APIClient) -> None:
    ids = [submit(client) for _ in range(3)]
    lose_a_worker()
    give_one_back()
    assert sorted(queue.waiting_ids()) == sorted(ids)
    answer = operator.post("/delete_pending").json()
    assert answer == {"num_of_pending_tasks": 3, "num_of_deleted_tasks": 3}
    assert {row(task_id)[0] for task_id in ids} == {"canceled"}
    assert queue.sizes() == queue.Sizes(0, 0)


@pytest.mark.parametrize("comes_back", [lose_a_worker, give_one_back])
def test_tasks_return_to_a_full_queue_and_submissions_are_refused(
    client: APIClient, configured: Callable[..., None], comes_back: Callable[[Run], str]
) -> None:
    configured(MAX_QUEUE_SIZE=1)
    first = submit(client)
    run = take()
    second = submit(client)
    comes_back(run)
    assert queue.waiting_ids() == [first, second]
    refused = client.post("/async/v1/predict", {"model_name": "m", "inputs": {}}, format="json")
    assert refused.status_code == 429


@pytest.mark.parametrize("comes_back", [lose_a_worker, give_one_back])
def test_canceling_a_task_that_waits_again_is_answered_as_for_one_that_waits(
    client: APIClient, comes_back: Callable[[], str]
) -> None:
    submit(client)
    task_id = comes_back()
    assert client.post(f"/cancel/{task_id}").status_code == 200
    assert row(task_id)[0] == "canceled"
    assert queue.sizes() == queue.Sizes(0, 0)


@pytest.mark.parametrize("comes_back", [lose_a_worker, give_one_back])
def test_a_task_that_waits_again_survives_a_redis_that_is_emptied(
    client: APIClient, work: Callable[..., Any], comes_back: Callable[[], str]
) -> None:
    """What counts attempts is the row: the job that told of the lost worker is gone."""
    submit(client)
    task_id = comes_back()
    get_redis().flushall()
    assert manage("init_check") == "Init check: 1 enqueued again.\n"
    work()
    assert row(task_id) == ("succeeded", 2 if comes_back is lose_a_worker else 1)


def test_the_result_of_a_run_that_was_taken_for_lost_counts_until_the_next_one_begins(
    client: APIClient, work: Callable[..., Any]
) -> None:
    submit(client)
    (run,) = claim()
    task = begin(run)
    find_again_as_a_worker_does()
    assert row(task.pk) == ("pending", 1)
    lifecycle.succeed(task, "late, and in time", 0.5)
    work()
    assert (Task.objects.get().outputs, predictors.calls) == ("late, and in time", [])


def test_the_result_of_a_run_that_was_taken_for_lost_is_refused_once_the_next_one_has_begun(client: APIClient) -> None:
    submit(client)
    (run,) = claim()
    late = begin(run)
    find_again_as_a_worker_does()
    begin(*claim())
    with pytest.raises(lifecycle.InvalidTransition):
        lifecycle.succeed(late, "too late", 0.5)
    assert row(late.pk) == ("running", 2)


def test_without_the_database_the_next_run_still_follows(client: APIClient, work: Callable[..., Any]) -> None:
    """The row says `running` until then; the API answers by the queue."""

    def no_database(*args: object) -> None:
        raise OperationalError("the server closed the connection")

    first, second = submit(client), submit(client)
    for run in claim(2):
        begin(run)
        with connection.execute_wrapper(no_database):
            jobs.put_back([(run.job_id, run.execution_id)], False)
        hand_back(run)
    assert row(first)[0] == "running"
    assert client.post(f"/cancel/{first}").status_code == 200
    work()
    assert (row(first)[0], row(second)) == ("canceled", ("succeeded", 1))


def test_a_task_whose_start_the_record_service_did_not_hear_waits_again(
    client: APIClient, configured: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = submit(client)
    (run,) = claim()

    def away(change: Change) -> None:
        raise RecordUnavailable("it does not answer")

    monkeypatch.setattr(get_recorder(), "changed", away)
    with pytest.raises(RecordUnavailable):
        begin(run)
    assert row(task_id) == ("pending", 1)
