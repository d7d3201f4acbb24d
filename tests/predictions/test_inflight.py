"""Predictions in flight: cancels before the call, and tasks that the init check does not touch."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections
from rest_framework.test import APIClient
from rq.defaults import RQ_KEY_PREFIX

from config.settings import PLATFORMS
from platforms import Call, StopReason
from predictions.execution import inflight
from predictions.execution.inflight import in_flight
from predictions.models import Task
from predictions.operations import maintenance
from predictions.queue import queue
from predictions.redis.connections import get_redis
from tests.helpers import predictors
from tests.helpers.api import submit
from tests.helpers.proxy import Proxy
from tests.helpers.stub import Stub, streams
from tests.helpers.waiting import until


def new_call(timeout_seconds: float = 60) -> Call:
    return Call(timeout_seconds=timeout_seconds)


def ends(call: Call) -> StopReason:
    until(lambda: call.reason)
    assert call.reason is not None
    return call.reason


def test_a_cancel_that_came_long_before_the_call_ends_it() -> None:
    queue.request_stop("task")
    get_redis().zincrby(f"{RQ_KEY_PREFIX}:stops:default", -600, "task")
    other, call = new_call(), new_call()
    with in_flight("other", other):
        until(lambda: queue.unfinished_ids() == {"other"})  # the watch has looked, and found nothing for it
        with in_flight("task", call):
            assert ends(call) is StopReason.CANCELED
    assert other.reason is None


@pytest.mark.parametrize("route", ["/v1/predict", "/v1/generate"])
def test_predictions_whose_callers_wait_go_on_while_redis_is_away(
    client: APIClient, configured: Callable[..., None], redis_proxy: Proxy, route: str
) -> None:
    stub = Stub()
    stub.script("POST /v1/models/m:predict", streams(b'{"id": 0, "data": "a"}\n'))
    name, arguments = PLATFORMS["kserve"]
    configured(ML_PLATFORM="kserve", PLATFORMS={"kserve": (name, {**arguments, "address": stub.address})})
    redis_proxy.cut()
    response = client.post(route, {"model_name": "m", "inputs": {}}, format="json")
    assert response.status_code == 200
    b"".join(response)
    assert Task.objects.get().status == "succeeded"
    stub.close()


def test_a_call_ends_at_its_deadline_while_redis_is_away(redis_proxy: Proxy) -> None:
    redis_proxy.cut()
    call = new_call(0.5)
    with in_flight("task", call):
        assert ends(call) is StopReason.TIMEOUT


def test_a_redis_that_hangs_does_not_delay_the_end_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither at its deadline nor when its caller hangs up: the look at Redis has not come back when they end."""
    answered, asked = threading.Event(), threading.Event()

    def hang(*args: object, **kwargs: object) -> tuple[list[str], float]:
        asked.set()
        answered.wait(30)
        return [], 0.0

    monkeypatch.setattr(queue, "look", hang)
    late, left = new_call(1), new_call()
    is_here = threading.Event()
    is_here.set()
    with in_flight("late", late), in_flight("left", left, caller_is_gone=lambda: not is_here.is_set()):
        assert asked.wait(10)
        is_here.clear()
        assert (ends(late), ends(left)) == (StopReason.TIMEOUT, StopReason.CANCELED)
        assert not answered.is_set()
        answered.set()


def test_a_call_whose_closing_fails_does_not_keep_the_others_from_ending() -> None:
    def fails() -> None:
        raise OSError("no such socket")

    broken, fine = new_call(0.3), new_call(0.6)
    with in_flight("broken", broken), broken.closing(fails), in_flight("fine", fine):
        assert ends(fine) is StopReason.TIMEOUT


def test_predictions_in_flight_are_known_while_their_process_reports_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflight, "SAY_EVERY_SECONDS", 0.1)
    with in_flight("one", new_call()), in_flight("two", new_call()):
        until(lambda: queue.unfinished_ids() == {"one", "two"})
        get_redis().flushall()
        until(lambda: queue.unfinished_ids() == {"one", "two"})
    with in_flight("three", new_call()):
        until(lambda: queue.unfinished_ids() == {"three"})


def test_one_look_at_redis_is_for_all_that_run(redis_proxy: Proxy, no_watches: None) -> None:
    cancellations = inflight._Cancellations()
    with ExitStack() as running:
        for number in range(20):
            running.enter_context(in_flight(f"task-{number}", new_call()))
        cancellations.stop_canceled()  # from here on Redis knows the script
        before = redis_proxy.requests
        cancellations.stop_canceled()
        assert redis_proxy.requests - before == 1


def test_a_killed_processs_predictions_are_soon_forgotten() -> None:
    queue.look(0, holds=["orphan"], released=[])
    assert queue.unfinished_ids() == {"orphan"}
    get_redis().zincrby(f"{RQ_KEY_PREFIX}:held:default", -queue.HOLD_SECONDS, "orphan")
    assert queue.unfinished_ids() == set()


def test_init_check_leaves_a_sync_prediction_alone_however_old_it_looks(client: APIClient) -> None:
    with ThreadPoolExecutor() as pool:
        body = {"model_name": "iris", "inputs": {"wait": True}}
        answer = pool.submit(client.post, "/v1/predict", body, format="json")
        until(lambda: queue.unfinished_ids())
        task = Task.objects.get()
        Task.objects.update(started_at=task.started_at - timedelta(hours=1))  # as a clock stepped by an hour shows it
        assert str(maintenance.init_check()) == "nothing to do"
        predictors.gate.set()
        assert answer.result(20).json()["status"] == "succeeded"
        pool.submit(connections.close_all).result()


def test_init_check_leaves_running_tasks_after_redis_was_emptied(client: APIClient, work: Callable[..., Any]) -> None:
    task_id = submit(client, {"wait": True})
    with ThreadPoolExecutor() as pool:
        worker = pool.submit(work)
        until(lambda: predictors.calls)
        get_redis().flushall()
        until(lambda: queue.unfinished_ids() == {task_id}, seconds=30)
        Task.objects.update(started_at=Task.objects.get().created_at - timedelta(hours=1))
        assert str(maintenance.init_check()) == "nothing to do"
        predictors.gate.set()
        worker.result(20)
    assert (Task.objects.get().status, len(predictors.calls)) == ("succeeded", 1)
