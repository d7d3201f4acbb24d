"""A queue whose Redis ends with its pod: waiting tasks fail, results reach their rows, and no task enters."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connections
from rest_framework.test import APIClient
from rq.defaults import RQ_KEY_PREFIX

from predictions import lifecycle, submission
from predictions.execution.outcomes import Outcome
from predictions.models import Task
from predictions.operations import shutdown
from predictions.queue import queue
from predictions.recorder import get_recorder
from predictions.redis.connections import get_redis
from predictions.submission import PredictionRequest
from tests.helpers import predictors
from tests.helpers.api import submit
from tests.helpers.factories import status_of
from tests.helpers.ports import free_port
from tests.helpers.waiting import until
from tests.helpers.workers import StartWorker

BODY = {"model_name": "m", "inputs": {}}


def test_waiting_tasks_fail_and_free_their_places(client: APIClient) -> None:
    ids = [submit(client) for _ in range(5)]
    assert shutdown.close_queue() == 5
    for task in Task.objects.all():
        assert (task.pk in ids, task.status, task.error_info) == (True, "failed", "the task queue was closed")
    assert queue.sizes() == queue.Sizes(0, 0)
    assert shutdown.close_queue() == 0


def test_a_closed_queue_takes_nothing_and_opens_again_by_itself(client: APIClient) -> None:
    shutdown.close_queue()
    refused = client.post("/async/v1/predict", BODY, format="json")
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    assert Task.objects.get().status == "failed"
    assert 0 < get_redis().ttl(f"{RQ_KEY_PREFIX}:closed:default") <= shutdown.STAYS_CLOSED_SECONDS
    get_redis().delete(f"{RQ_KEY_PREFIX}:closed:default")
    assert client.post("/async/v1/predict", BODY, format="json").status_code == 200


def test_a_submission_on_its_way_is_refused_and_on_record() -> None:
    """The queue closes after its place was given, and before its job is there."""
    request = PredictionRequest(model_name="m", inputs={})
    task = submission.new_task(request, Task.Status.PENDING)
    queue.reserve(task.pk)
    lifecycle.create(task)
    assert shutdown.close_queue() == 1
    with pytest.raises(queue.QueueClosed):
        queue.enqueue(task.pk)
    assert Task.objects.get().error_info == "the task queue was closed"


def test_a_prediction_that_was_made_is_written_down(client: APIClient) -> None:
    task = Task.objects.get(pk=submit(client))
    lifecycle.start(task.pk, run_id="a run")
    get_redis().hset(f"{RQ_KEY_PREFIX}:job:{task.pk}", "outcome", Outcome("a run", 1.5, outputs={"kept": True}).text)
    assert shutdown.close_queue() == 0
    task.refresh_from_db()
    assert (task.status, task.outputs, task.running_time) == ("succeeded", {"kept": True}, 1.5)
    assert queue.sizes() == queue.Sizes(0, 0)


def test_a_stopping_worker_goes_on_for_a_while_and_then_closes_the_queue(
    client: APIClient, start_worker: StartWorker
) -> None:
    long = submit(client, {"wait": True})
    running = start_worker(concurrency=2, linger_seconds=4, before_finishing=shutdown.close_queue)
    until(lambda: predictors.calls)
    running.worker.request_stop(15, None)
    meanwhile = submit(client)
    until(lambda: status_of(meanwhile) == "succeeded")
    another_long, waiting = submit(client, {"wait": True}), submit(client)
    until(lambda: status_of(waiting) == "failed")
    assert Task.objects.get(pk=waiting).error_info == "the task queue was closed"
    assert {status_of(long), status_of(another_long)} == {"running"}
    assert client.post("/async/v1/predict", BODY, format="json").status_code == 503
    predictors.gate.set()
    running.thread.join(20)
    assert {status_of(long), status_of(another_long)} == {"succeeded"}


def test_unfinished_tasks_fail_when_the_queue_closes(client: APIClient, start_worker: StartWorker) -> None:
    """Handed back to a Redis that is about to end it would be lost."""
    task_id = submit(client, {"wait": True})
    running = start_worker(concurrency=1, shutdown_seconds=0.1, before_finishing=shutdown.close_queue)
    until(lambda: predictors.calls)
    running.stop()
    assert Task.objects.get(pk=task_id).error_info == "the task queue was closed"
    assert queue.sizes() == queue.Sizes(0, 0)


def test_many_may_close_at_once(client: APIClient, configured: Callable[..., None]) -> None:
    configured(MAX_QUEUE_SIZE=200)
    for _ in range(100):
        submit(client)

    def close() -> int:
        try:
            return shutdown.close_queue()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        assert sum(future.result() for future in [pool.submit(close) for _ in range(4)]) == 100
    assert not Task.objects.unfinished().exists()
    assert queue.sizes() == queue.Sizes(0, 0)


@pytest.fixture
def dead_record_service(configured: Callable[..., None]) -> Iterator[Callable[[], None]]:
    def configure() -> None:
        get_recorder.cache_clear()
        configured(WEBHOOK_SERVER_ADDRESS=f"127.0.0.1:{free_port()}", TASK_RECORDER="webhooks.client.HttpRecorder")

    yield configure
    get_recorder.cache_clear()


def test_a_record_service_that_is_down_does_not_hold_up_the_closing(
    client: APIClient, dead_record_service: Callable[[], None]
) -> None:
    ids = [submit(client) for _ in range(20)]
    dead_record_service()
    assert shutdown.close_queue() == 20
    assert Task.objects.filter(pk__in=ids, status="failed", unreported=True).count() == 20
