"""The worker: heartbeats, time limits, hand-back, signals, slots, and Redis going away."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from rest_framework.test import APIClient
from rq.command import send_stop_job_command
from rq.defaults import RQ_KEY_PREFIX
from rq.worker import BaseWorker

from predictions.models import Task
from predictions.queue import queue
from predictions.queue.worker_scripts import FAR_SECONDS
from predictions.redis.connections import get_redis
from predictions.worker import supervisor
from predictions.worker import worker as worker_module
from predictions.worker.worker import ThreadWorker
from tests.helpers import predictors
from tests.helpers.api import submit
from tests.helpers.factories import status_of
from tests.helpers.proxy import Proxy
from tests.helpers.waiting import until
from tests.helpers.workers import StartWorker, new_worker


def test_the_heartbeat_keeps_every_lease_and_the_worker(
    client: APIClient, start_worker: StartWorker, monkeypatch: Any
) -> None:
    monkeypatch.setattr(supervisor, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(supervisor, "TICK_SECONDS", 0.05)
    for _ in range(4):
        submit(client, {"wait": True})
    start_worker(concurrency=4)
    until(lambda: len(predictors.calls) == 4)
    for member in get_redis().zrange(f"{RQ_KEY_PREFIX}:wip:default", 0, -1):
        get_redis().zincrby(f"{RQ_KEY_PREFIX}:wip:default", -15, member)
    until(lambda: get_redis().zcount(f"{RQ_KEY_PREFIX}:wip:default", FAR_SECONDS + time.time() + 20, "+inf") == 4)
    (known,) = BaseWorker.all(connection=get_redis())
    assert known.get_state() == "busy"
    assert known.current_execution_count == 4
    predictors.gate.set()
    until(lambda: Task.objects.filter(status="succeeded").count() == 4)
    until(lambda: BaseWorker.all(connection=get_redis())[0].get_state() == "idle")
    assert BaseWorker.all(connection=get_redis())[0].successful_job_count == 4


def test_no_more_than_its_concurrency_run_at_once(client: APIClient, start_worker: StartWorker) -> None:
    for _ in range(6):
        submit(client, {"wait": True})
    start_worker(concurrency=2)
    until(lambda: len(predictors.calls) == 2)
    time.sleep(0.1)
    assert len(predictors.calls) == 2
    assert queue.sizes() == queue.Sizes(waiting=4, running=2)


def test_a_shutdown_finishes_running_tasks_and_takes_no_new_ones(client: APIClient, start_worker: StartWorker) -> None:
    running_id = submit(client, {"wait": True})
    running = start_worker(concurrency=1)
    until(lambda: predictors.calls)
    waiting_id = submit(client)
    running.worker.request_stop(15, None)
    time.sleep(0.05)
    predictors.gate.set()
    running.thread.join(20)
    assert (status_of(running_id), status_of(waiting_id)) == ("succeeded", "pending")
    assert BaseWorker.all(connection=get_redis()) == []


def test_what_takes_too_long_at_shutdown_goes_back_to_the_front_uncounted(
    client: APIClient, start_worker: StartWorker, work: Callable[..., Any]
) -> None:
    first = submit(client, {"wait": True})
    second = submit(client)
    running = start_worker(concurrency=1, shutdown_seconds=0.1)
    until(lambda: predictors.calls)
    running.stop()
    assert queue.waiting_ids() == [first, second]
    predictors.gate.set()
    work()
    tasks = {task.pk: task for task in Task.objects.all()}
    assert (tasks[first].status, tasks[first].attempt) == ("succeeded", 1)
    assert tasks[second].status == "succeeded"


def test_a_signal_that_comes_while_a_worker_signs_on_ends_it_like_any_other(
    client: APIClient, work: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    register_birth = ThreadWorker.register_birth

    def register_birth_and_press_ctrl_c(worker: ThreadWorker) -> None:
        register_birth(worker)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ThreadWorker, "register_birth", register_birth_and_press_ctrl_c)
    task_id = submit(client)
    try:
        work()
    except KeyboardInterrupt:
        pytest.fail("the worker did not hear the signal")
    assert (status_of(task_id), BaseWorker.all(connection=get_redis())) == ("pending", [])


def test_sigtstp_and_sigcont_hold_and_resume(client: APIClient, start_worker: StartWorker) -> None:
    running = start_worker()
    running.worker.hold_or_resume(signal.SIGTSTP, None)
    task_id = submit(client)
    time.sleep(0.3)
    assert status_of(task_id) == "pending"
    running.worker.hold_or_resume(signal.SIGCONT, None)
    until(lambda: status_of(task_id) == "succeeded")


def test_a_job_that_does_not_end_gives_its_slot_on(
    client: APIClient, start_worker: StartWorker, monkeypatch: Any, configured: Callable[..., None]
) -> None:
    monkeypatch.setattr(supervisor, "REACT_SECONDS", 0.2)
    monkeypatch.setattr(supervisor, "TICK_SECONDS", 0.05)
    configured(TASK_TIMEOUT=3)
    stuck = submit(client, {"sleep": 10})  # one call of C: no exception reaches it before it returns
    start_worker(concurrency=1)
    until(lambda: status_of(stuck) == "failed")
    next_one = submit(client, {"answer": 1})
    until(lambda: status_of(next_one) == "succeeded")
    assert "time limit" in Task.objects.get(pk=stuck).error_info


@pytest.mark.parametrize("error", ["SystemExit", "KeyboardInterrupt", "GeneratorExit"])
def test_a_model_that_wants_to_end_the_process_ends_its_task_alone(
    client: APIClient, start_worker: StartWorker, error: str
) -> None:
    ending = submit(client, {"raise": error})
    start_worker(concurrency=1)
    until(lambda: status_of(ending) == "failed")
    assert Task.objects.get().error_info == f"the model raised {error}"
    next_one = submit(client)
    until(lambda: status_of(next_one) == "succeeded")
    answer = client.post("/v1/predict", {"model_name": "m", "inputs": {"raise": "SystemExit"}}, format="json")
    assert (answer.status_code, answer.json()["code"]) == (502, "platform_error")


def test_a_job_that_raises_an_error_leaves_its_traceback_in_the_log(
    client: APIClient, work: Callable[..., Any], configured: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    task_id = submit(client)
    configured(PLATFORMS={"local": ("platforms.local.Nowhere", {})})
    work()
    (record,) = [record for record in caplog.records if record.message == f"job {task_id} failed"]
    assert record.exc_info
    assert "has no attribute 'Nowhere'" in str(record.exc_info[1])
    assert queue.archived_ids() == [task_id]


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a worker repeat its periodic work without a pause."""
    monkeypatch.setattr(supervisor, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(supervisor, "BEAT_SECONDS", 0.2)


@pytest.mark.usefixtures("often")
def test_workers_restore_their_runs_in_an_emptied_redis(client: APIClient, start_worker: StartWorker) -> None:
    running = start_worker(concurrency=2, shutdown_seconds=0.1)
    ids = {submit(client, {"wait": True}) for _ in range(2)}
    until(lambda: len(predictors.calls) == 2)
    get_redis().flushall()
    until(lambda: queue.sizes() == queue.Sizes(waiting=0, running=2))
    until(lambda: [known.current_execution_count for known in BaseWorker.all(connection=get_redis())] == [2])
    running.stop()
    assert set(queue.waiting_ids()) == ids


@pytest.mark.usefixtures("often")
def test_a_redis_that_was_emptied_gets_back_what_waited(client: APIClient, start_worker: StartWorker) -> None:
    start_worker(concurrency=2)
    for wait in (True, True, False, False, False):
        submit(client, {"wait": wait})
    until(lambda: len(predictors.calls) == 2)
    get_redis().flushall()
    until(lambda: queue.sizes().running == 2)
    predictors.gate.set()
    until(lambda: not Task.objects.unfinished().exists())
    assert {(task.status, task.attempt) for task in Task.objects.all()} == {("succeeded", 1)}
    assert len(predictors.calls) == 5


def test_a_job_requeued_in_an_emptied_redis_is_not_lost(client: APIClient, start_worker: StartWorker) -> None:
    task_id = submit(client, {"wait": True})
    running = start_worker(concurrency=1, shutdown_seconds=0)
    until(lambda: predictors.calls)
    get_redis().flushall()
    running.stop()
    assert queue.waiting_ids() == [task_id]


def test_rqs_stop_command_cancels_the_task(client: APIClient, start_worker: StartWorker) -> None:
    task_id = submit(client, {"wait": True})
    start_worker()
    until(lambda: predictors.calls)
    send_stop_job_command(get_redis(), task_id, serializer="json")
    until(lambda: status_of(task_id) == "canceled")


def test_a_worker_outlives_a_redis_that_goes_away(
    client: APIClient, start_worker: StartWorker, redis_proxy: Proxy
) -> None:
    task_id = submit(client, {"wait": True})
    start_worker()
    until(lambda: predictors.calls)
    redis_proxy.cut()
    predictors.gate.set()
    until(lambda: status_of(task_id) == "succeeded")
    time.sleep(0.3)
    redis_proxy.mend()
    later = submit(client)
    until(lambda: status_of(later) == "succeeded")
    until(lambda: queue.sizes() == queue.Sizes(0, 0))
    assert len(predictors.calls) == 2


@pytest.mark.parametrize("answered", range(0, 12, 2))
def test_a_worker_outlives_a_redis_that_goes_away_while_it_signs_on(
    client: APIClient, start_worker: StartWorker, redis_proxy: Proxy, answered: int
) -> None:
    redis_proxy.requests_left = answered
    mending = threading.Timer(0.5, redis_proxy.mend)
    mending.start()
    worker = start_worker().worker
    mending.join()
    task_id = submit(client, {"wait": True})
    until(lambda: predictors.calls)
    until(lambda: [known.name for known in BaseWorker.all(connection=get_redis())] == [worker.name])
    until(lambda: dict(get_redis().pubsub_numsub(worker.pubsub_channel_name))[worker.pubsub_channel_name.encode()] == 1)
    send_stop_job_command(get_redis(), task_id, serializer="json")
    until(lambda: status_of(task_id) == "canceled")


def test_a_worker_reconnects_with_exponential_backoff(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker = new_worker()
    now, waits = 100.0, []

    def wait(seconds: float) -> bool:
        nonlocal now
        now += seconds
        waits.append(seconds)
        return False

    monkeypatch.setattr(worker._over, "wait", wait)
    monkeypatch.setattr(worker_module, "time", SimpleNamespace(monotonic=lambda: now))
    for _ in range(12):
        worker._note_silence(redis.ConnectionError("gone"))
    assert waits[0] < 0.1
    assert waits == sorted(waits)
    assert waits[-1] == 2
    assert [record.message for record in caplog.records if "Redis does not answer" in record.message] == [
        f"worker {worker.name}: Redis does not answer (gone), waiting for it"
    ]
