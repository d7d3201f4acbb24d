"""The worker: leases, lost workers, time limits, hand-back, signals, Redis and the database going away."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from rest_framework.test import APIClient
from rq.defaults import RQ_KEY_PREFIX
from rq.worker import BaseWorker

from predictions.models import Task
from predictions.queue import queue
from predictions.queue import worker as worker_module
from predictions.queue.connections import get_redis
from tests import predictors
from tests.conftest import new_worker
from tests.predictions.test_async import submit
from tests.predictions.test_cancel import until
from tests.proxy import Proxy


class Running:
    """A worker in a thread."""

    def __init__(self, **attributes: Any) -> None:
        self.worker = new_worker(**attributes)
        self.thread = threading.Thread(target=self.worker.work)
        self.thread.start()

    def stop(self) -> None:
        self.worker.request_stop(15, None)
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture
def start() -> Any:
    started: list[Running] = []

    def run(**attributes: Any) -> Running:
        started.append(Running(**attributes))
        return started[-1]

    yield run
    predictors.gate.set()
    for running in started:
        running.stop()


def status_of(task_id: str) -> str:
    return Task.objects.get(pk=task_id).status


def die(running: Running) -> None:
    """What kill -9 leaves behind: no beat, no end, the leases in place."""
    running.worker._over.set()
    running.worker._script = lambda *args: time.sleep(3600)  # type: ignore[method-assign]


def lapse_leases() -> None:
    for member in get_redis().zrange(f"{RQ_KEY_PREFIX}:wip:default", 0, -1):
        get_redis().zadd(f"{RQ_KEY_PREFIX}:wip:default", {member: 1})


def test_the_jobs_of_a_lost_worker_are_run_once_more_and_then_failed(client: APIClient) -> None:
    task_id = submit(client, {"n": 1})
    for attempt in (1, 2):
        lost = new_worker()
        lost.register_birth()
        (run,) = lost._claim_from("default", 1)
        assert run.attempt == attempt
        Task.objects.filter(pk=task_id).update(status="running", run_id=run.execution_id, attempt=attempt)
        new_worker()._script(_tick(), "default", 25, 3)  # the first look after a silence only marks the time
        lapse_leases()
        assert new_worker()._script(_tick(), "default", 25, 3) == [0, 1]
    assert queue.sizes() == queue.Sizes(waiting=1, running=0)
    new_worker().work(burst=True)
    assert predictors.calls == []
    task = Task.objects.get()
    assert (task.status, task.error_info) == ("failed", "its worker was lost 2 times")


def _tick() -> str:
    from predictions.queue import scripts

    return scripts.TICK


def test_a_lost_workers_job_goes_to_the_front(client: APIClient) -> None:
    first, second = submit(client), submit(client)
    lost = new_worker()
    lost.register_birth()
    lost._claim_from("default", 1)
    new_worker()._script(_tick(), "default", 25, 3)
    lapse_leases()
    new_worker()._script(_tick(), "default", 25, 3)
    assert queue.waiting_ids() == [first, second]


def test_after_a_silence_leases_get_a_second_chance(client: APIClient) -> None:
    submit(client)
    worker = new_worker()
    worker.register_birth()
    worker._claim_from("default", 1)
    worker._script(_tick(), "default", 25, 3)
    lapse_leases()
    get_redis().hset(f"{RQ_KEY_PREFIX}:tick:default", "at", time.time() - 60)
    assert worker._script(_tick(), "default", 25, 3) == [0, 0]
    assert queue.sizes() == queue.Sizes(waiting=0, running=1)


@pytest.mark.parametrize("step", [3600, -3600])
def test_a_step_of_the_clock_takes_no_running_job_away(client: APIClient, step: int) -> None:
    submit(client)
    worker = new_worker()
    worker.register_birth()
    worker._claim_from("default", 1)
    get_redis().hset(f"{RQ_KEY_PREFIX}:tick:default", "at", time.time() - step)
    lease = {member: time.time() + 25 - step for member in get_redis().zrange(f"{RQ_KEY_PREFIX}:wip:default", 0, -1)}
    get_redis().zadd(f"{RQ_KEY_PREFIX}:wip:default", lease)
    assert worker._script(_tick(), "default", 25, 3) == [0, 0]
    (score,) = [score for _, score in get_redis().zrange(f"{RQ_KEY_PREFIX}:wip:default", 0, -1, withscores=True)]
    assert 0 < score - time.time() <= 26


def test_a_late_write_of_an_older_run_is_refused(client: APIClient) -> None:
    from predictions import execution

    task_id = submit(client, {"wait": True})
    older = threading.Thread(
        target=execution.run,
        args=(task_id,),
        kwargs={
            "run_id": "old",
            "attempt": 1,
            "attempts": 2,
            "timeout_seconds": 60,
            "kept": None,
            "on_call": lambda call: None,
        },
    )
    older.start()
    until(lambda: predictors.calls)
    Task.objects.filter(pk=task_id).update(run_id="new", attempt=2)
    predictors.gate.set()
    older.join(20)
    assert (Task.objects.get().status, Task.objects.get().run_id) == ("running", "new")


def test_the_heartbeat_keeps_every_lease_and_the_worker(client: APIClient, start: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(worker_module, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(worker_module, "TICK_SECONDS", 0.05)
    for _ in range(4):
        submit(client, {"wait": True})
    start(concurrency=4)
    until(lambda: len(predictors.calls) == 4)
    wip = f"{RQ_KEY_PREFIX}:wip:default"
    for run in get_redis().zrange(wip, 0, -1):
        get_redis().zadd(wip, {run: time.time() + 5})  # not lapsed: a tick would give the jobs on
    until(lambda: get_redis().zcount(wip, time.time() + 20, "+inf") == 4)
    (known,) = BaseWorker.all(connection=get_redis())
    assert known.get_state() == "busy"
    assert known.current_execution_count == 4
    predictors.gate.set()
    until(lambda: Task.objects.filter(status="succeeded").count() == 4)
    until(lambda: BaseWorker.all(connection=get_redis())[0].get_state() == "idle")
    assert BaseWorker.all(connection=get_redis())[0].successful_job_count == 4


def test_no_more_than_its_concurrency_run_at_once(client: APIClient, start: Any) -> None:
    for _ in range(6):
        submit(client, {"wait": True})
    start(concurrency=2)
    until(lambda: len(predictors.calls) == 2)
    time.sleep(0.1)
    assert len(predictors.calls) == 2
    assert queue.sizes() == queue.Sizes(waiting=4, running=2)


def test_a_shutdown_finishes_what_runs_and_takes_nothing_new(client: APIClient) -> None:
    running_id = submit(client, {"wait": True})
    running = Running(concurrency=1)
    until(lambda: predictors.calls)
    waiting_id = submit(client)
    running.worker.request_stop(15, None)
    time.sleep(0.05)
    predictors.gate.set()
    running.thread.join(20)
    assert (status_of(running_id), status_of(waiting_id)) == ("succeeded", "pending")
    assert BaseWorker.all(connection=get_redis()) == []


def test_what_takes_too_long_at_shutdown_goes_back_to_the_front_uncounted(
    client: APIClient, work: Callable[..., Any]
) -> None:
    first = submit(client, {"wait": True})
    second = submit(client)
    running = Running(concurrency=1, shutdown_seconds=0.1)
    until(lambda: predictors.calls)
    running.stop()
    assert queue.waiting_ids() == [first, second]
    predictors.gate.set()
    work()
    tasks = {task.pk: task for task in Task.objects.all()}
    assert (tasks[first].status, tasks[first].attempt) == ("succeeded", 1)
    assert tasks[second].status == "succeeded"


def test_sigtstp_and_sigcont_hold_and_resume(client: APIClient, start: Any) -> None:
    running = start()
    running.worker._take_none(0, None)
    task_id = submit(client)
    time.sleep(0.3)
    assert status_of(task_id) == "pending"
    running.worker._take_again(0, None)
    until(lambda: status_of(task_id) == "succeeded")


def test_a_job_that_does_not_end_gives_its_slot_on(
    client: APIClient, start: Any, monkeypatch: Any, configured: Callable[..., None]
) -> None:
    monkeypatch.setattr(worker_module, "REACT_SECONDS", 0.2)
    monkeypatch.setattr(worker_module, "TICK_SECONDS", 0.05)
    configured(TASK_TIMEOUT=1)
    stuck = submit(client, {"sleep": 8})  # one call of C: no exception reaches it before it returns
    start(concurrency=1)
    until(lambda: status_of(stuck) == "failed")
    next_one = submit(client, {"answer": 1})
    until(lambda: status_of(next_one) == "succeeded")
    assert "time limit" in Task.objects.get(pk=stuck).error_info


def test_rqs_stop_command_cancels_the_task(client: APIClient, start: Any) -> None:
    from rq.command import send_stop_job_command

    task_id = submit(client, {"wait": True})
    start()
    until(lambda: predictors.calls)
    send_stop_job_command(get_redis(), task_id, serializer="json")
    until(lambda: status_of(task_id) == "canceled")


def test_a_worker_outlives_a_redis_that_goes_away(client: APIClient, start: Any, redis_proxy: Proxy) -> None:
    task_id = submit(client, {"wait": True})
    start()
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
