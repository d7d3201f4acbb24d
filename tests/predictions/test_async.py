"""Async predictions: submitted through the API, run by a real worker on a real Redis."""

import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient
from rq.job import Job
from rq.registry import FailedJobRegistry, FinishedJobRegistry

from predictions.execution.runner import run
from predictions.models import Task
from predictions.queue import queue
from predictions.redis.connections import get_redis
from predictions.worker.runs import Run
from tests.helpers import predictors
from tests.helpers.api import submit
from tests.helpers.proxy import Proxy

Work = Callable[..., Any]


def test_a_task_is_pending_until_a_worker_ran_it(client: APIClient, work: Work) -> None:
    task_id = submit(client, {"answer": 7}, UID="ann")
    before = client.get(f"/task/{task_id}").json()
    assert (before["status"], before["running_time"], before["queue_num"]) == ("pending", "", 0)
    assert predictors.calls == []
    work()
    assert len(predictors.calls) == 1
    after = client.get(f"/task/{task_id}").json()
    assert (after["status"], after["outputs"], after["error_info"]) == ("succeeded", 7, "")
    assert after["queue_id"] == task_id
    assert (Task.objects.get().user_id, Task.objects.get().attempt) == ("ann", 1)


def test_the_answer_is_the_id_alone(client: APIClient) -> None:
    response = client.post("/async/v1/predict", {"model_name": "iris", "inputs": {}}, format="json")
    assert list(response.json()) == ["id"]


def test_queue_num_is_the_size_at_submission(client: APIClient) -> None:
    ids = [submit(client) for _ in range(3)]
    assert [Task.objects.get(pk=task_id).queue_num for task_id in ids] == [0, 1, 2]


def test_tasks_run_in_the_order_they_came(client: APIClient, work: Work) -> None:
    for number in range(5):
        submit(client, {"number": number})
    work(concurrency=1)
    assert [call["number"] for call in predictors.calls] == [0, 1, 2, 3, 4]


def test_a_refused_input_fails_the_task_and_is_not_tried_again(client: APIClient, work: Work) -> None:
    task_id = submit(client, {"raise": "ValueError", "message": "send four numbers"})
    work()
    body = client.get(f"/task/{task_id}").json()
    assert (body["status"], body["error_info"], body["outputs"]) == ("failed", "send four numbers", None)
    assert len(predictors.calls) == 1
    assert queue.sizes() == queue.Sizes(waiting=0, running=0)


def test_a_full_queue_answers_429_and_leaves_no_record(client: APIClient, configured: Callable[..., None]) -> None:
    configured(MAX_QUEUE_SIZE=2)
    submit(client)
    submit(client)
    response = client.post("/async/v1/predict", {"model_name": "iris", "inputs": {}}, format="json")
    assert (response.status_code, response.json()["code"]) == (429, "queue_full")
    assert int(response["Retry-After"]) > 0
    assert Task.objects.count() == 2


def test_a_place_comes_free_when_its_job_leaves_by_any_way(
    client: APIClient, operator: APIClient, work: Work, configured: Callable[..., None]
) -> None:
    configured(MAX_QUEUE_SIZE=1)
    client.post(f"/cancel/{submit(client)}")
    submit(client)
    operator.post("/delete_pending")
    submit(client, {"raise": "KeyError"})
    work()
    submit(client)
    get_redis().delete(Job.key_for(Task.objects.get(status="pending").pk))
    work()
    submit(client)


def test_a_broken_payload_is_dropped_and_its_task_failed(client: APIClient, work: Work) -> None:
    broken = [
        b"not compressed",
        zlib.compress(b"\x80\x04N."),
        zlib.compress(json.dumps(["os.system", None, ["false"], {}]).encode()),
        zlib.compress(json.dumps(["predictions.jobs.nothing", None, [], {}]).encode()),
        zlib.compress(json.dumps({"a": 1}).encode()),
    ]
    ids = [submit(client) for _ in broken]
    for task_id, data in zip(ids, broken, strict=True):
        get_redis().hset(Job.key_for(task_id), "data", data)
    work()
    assert {task.status for task in Task.objects.all()} == {"failed"}
    assert {task.error_info for task in Task.objects.all()} == {"the job's payload was broken"}
    assert predictors.calls == []
    assert queue.sizes().waiting == 0


def test_a_job_that_redis_lost_the_hash_of_fails_its_task(client: APIClient, work: Work) -> None:
    task_id = submit(client)
    get_redis().delete(Job.key_for(task_id))
    work()
    assert Task.objects.get().status == "failed"


def test_a_job_for_an_ended_task_is_not_run(client: APIClient, work: Work) -> None:
    task_id = submit(client)
    Task.objects.filter(pk=task_id).update(status="failed")
    work()
    assert predictors.calls == []
    assert Task.objects.get().status == "failed"


def test_enqueueing_twice_runs_once(client: APIClient, work: Work) -> None:
    task_id = submit(client)
    queue.enqueue(task_id)
    queue.enqueue(task_id, bounded=False)
    assert queue.sizes().waiting == 1
    work()
    assert len(predictors.calls) == 1


def test_rqs_own_view_of_the_queue_is_true(client: APIClient, work: Work) -> None:
    fine = submit(client)
    job = Job.fetch(fine, connection=get_redis(), serializer="json")
    assert (job.get_status(), job.origin, job.timeout, job.args) == ("queued", "default", 320, [fine])
    work()
    assert FinishedJobRegistry("default", connection=get_redis()).get_job_ids() == [fine]
    assert FailedJobRegistry("default", connection=get_redis()).get_job_ids() == []
    job.refresh()
    assert job.get_status() == "finished"
    assert job.return_value() is None
    assert 0 < get_redis().ttl(job.key) <= 300


def test_nothing_in_redis_is_pickled(client: APIClient, work: Work) -> None:
    submit(client, {"answer": "secret output"})
    work()
    for key in get_redis().scan_iter("*"):
        if get_redis().type(key) == b"hash":
            for value in get_redis().hgetall(key).values():
                assert not value.startswith(b"\x80\x04"), key
                assert b"secret output" not in value, key


def test_a_task_takes_about_a_kilobyte_of_redis_whatever_its_inputs_and_outputs(client: APIClient, work: Work) -> None:
    """The queue holds the task's id; only the database has inputs and outputs."""
    for _ in range(10):
        submit(client, {"text": "x" * 100_000, "answer": "y" * 100_000})
    assert _bytes_in_redis() / 10 < 2048
    work()
    assert Task.objects.filter(status="succeeded").count() == 10
    assert _bytes_in_redis() / 10 < 2048


def _bytes_in_redis() -> int:
    return sum(int(get_redis().memory_usage(key) or 0) for key in get_redis().scan_iter("*"))


def test_a_submission_costs_one_insert_and_two_round_trips(client: APIClient, redis_proxy: Proxy) -> None:
    submit(client)
    before = redis_proxy.requests
    with CaptureQueriesContext(connection) as queries:
        submit(client)
    assert [query["sql"].split()[0] for query in queries] == ["INSERT"]
    assert redis_proxy.requests - before == 2


def test_reading_a_task_asks_redis_nothing(client: APIClient, redis_proxy: Proxy) -> None:
    task_id = submit(client)
    before = redis_proxy.requests
    assert client.get(f"/task/{task_id}").json()["status"] == "pending"
    assert redis_proxy.requests == before


def test_a_job_costs_two_queries(client: APIClient, work: Work) -> None:
    task_id = submit(client)
    with CaptureQueriesContext(connection) as queries:
        run(task_id, Run(task_id, "r", "default", {}))
    assert [query["sql"].split()[0] for query in queries] == ["UPDATE", "UPDATE"]


@pytest.mark.parametrize(
    ("answered", "error_info"), [(0, "the queue did not answer"), (1, "the task could not be queued")]
)
def test_redis_away_answers_503_and_leaves_a_failed_record(
    client: APIClient, redis_proxy: Proxy, answered: int, error_info: str
) -> None:
    submit(client)
    redis_proxy.requests_left = answered
    response = client.post("/async/v1/predict", {"model_name": "iris", "inputs": {}}, format="json")
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    refused = Task.objects.get(queue_num=None) if answered == 0 else Task.objects.get(queue_num=1)
    assert (refused.status, refused.error_info) == ("failed", error_info)
