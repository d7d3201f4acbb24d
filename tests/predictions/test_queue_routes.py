"""The queue's routes, and pause."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient
from rq.defaults import RQ_KEY_PREFIX

from predictions.models import Task
from predictions.queue import queue
from predictions.redis.connections import get_redis
from tests.helpers import predictors
from tests.helpers.api import submit


def test_queue_size_counts_waiting_tasks(client: APIClient) -> None:
    submit(client)
    get_redis().zadd(f"{RQ_KEY_PREFIX}:scheduled:default", {"waits-for-its-time": 9e12})
    get_redis().zadd(f"{RQ_KEY_PREFIX}:wip:default", {"a:b": 9e12})
    assert client.get("/v1/queue_size").json() == {"queue_size": 2}


def test_unfinished_counts_waiting_and_running_tasks(client: APIClient) -> None:
    submit(client)
    get_redis().zadd(f"{RQ_KEY_PREFIX}:scheduled:default", {"waits-for-its-time": 9e12})
    get_redis().zadd(f"{RQ_KEY_PREFIX}:wip:default", {"a:b": 9e12})
    assert client.get("/unfinished").json() == {"num of unfinished tasks": 3, "unfinished": 3}


def test_a_paused_queue_takes_tasks_and_hands_none_out(
    client: APIClient, operator: APIClient, work: Callable[..., Any]
) -> None:
    assert operator.post("/pause").status_code == 200
    task_id = submit(client)
    work()
    assert predictors.calls == []
    assert Task.objects.get().status == "pending"
    assert operator.post("/unpause").status_code == 200
    work()
    assert client.get(f"/task/{task_id}").json()["status"] == "succeeded"


def test_a_paused_queue_holds_no_sync_prediction(client: APIClient, operator: APIClient) -> None:
    operator.post("/pause")
    answer = client.post("/v1/predict", {"model_name": "iris", "inputs": {}}, format="json")
    assert answer.json()["status"] == "succeeded"


def test_pause_acts_on_this_agents_queue_alone(
    client: APIClient, operator: APIClient, configured: Callable[..., None]
) -> None:
    operator.post("/pause")
    configured(TASK_TYPE_NAME="other")
    assert not queue.paused()


def test_an_agent_reads_the_tasks_of_another_one_on_its_database_but_acts_on_its_own_alone(
    client: APIClient, operator: APIClient, configured: Callable[..., None]
) -> None:
    """Such as the pods that have a Redis each: TASK_TYPE_NAME says whose a task is."""
    task_id = submit(client)
    configured(TASK_TYPE_NAME="other", MAX_QUEUE_SIZE=1)
    assert client.get(f"/task/{task_id}").json()["status"] == "pending"
    assert client.post(f"/cancel/{task_id}").json()["code"] == "not_ours"
    assert client.get("/v1/queue_size").json() == {"queue_size": 0}
    assert operator.post("/delete_pending").json() == {"num_of_pending_tasks": 0, "num_of_deleted_tasks": 0}
    assert Task.objects.get().status == "pending"
    submit(client)  # the other agent's place is not taken


def test_delete_pending_cancels_every_waiting_task(
    client: APIClient, operator: APIClient, work: Callable[..., Any]
) -> None:
    ids = [submit(client) for _ in range(3)]
    client.post(f"/cancel/{ids[0]}")
    assert operator.post("/delete_pending").json() == {"num_of_pending_tasks": 2, "num_of_deleted_tasks": 2}
    assert {task.status for task in Task.objects.all()} == {"canceled"}
    work()
    assert predictors.calls == []
    assert operator.post("/delete_pending").json() == {"num_of_pending_tasks": 0, "num_of_deleted_tasks": 0}


@pytest.mark.parametrize("route", ["/pause", "/unpause", "/delete_pending"])
def test_operator_routes_are_closed_to_everybody_else(client: APIClient, route: str, configured: Any) -> None:
    assert client.post(route).status_code == 401
    assert client.post(route, headers={"apikey": "wrong"}).status_code == 403
    configured(API_KEYS=["caller"])
    assert client.post(route, headers={"apikey": "caller"}).status_code == 403
    assert client.post(route, headers={"apikey": "wrong"}).status_code == 401


def test_staff_signed_in_to_the_admin_are_operators_and_need_the_csrf_token() -> None:
    staff = User.objects.create_user("staff", is_staff=True)
    visitor = User.objects.create_user("visitor")
    browser = APIClient(enforce_csrf_checks=True)
    browser.force_login(staff)
    assert browser.post("/pause").status_code == 403
    trusting = APIClient()
    trusting.force_login(staff)
    assert trusting.post("/pause").status_code == 200
    trusting.force_login(visitor)
    assert trusting.post("/pause").status_code == 403
