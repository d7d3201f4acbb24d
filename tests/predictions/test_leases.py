"""Leases: a worker holds its jobs, others take over a lost worker's jobs, and a duplicated job runs once."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from rest_framework.test import APIClient
from rq.defaults import RQ_KEY_PREFIX
from rq.job import Job
from rq.registry import StartedJobRegistry

from predictions import lifecycle
from predictions.execution import runner
from predictions.lifecycle import InvalidTransition
from predictions.models import Task
from predictions.queue import queue
from predictions.queue.worker_scripts import FAR_SECONDS
from predictions.redis.connections import get_redis
from predictions.worker.bookkeeping import MOST_LOSSES, Bookkeeping
from predictions.worker.runs import Ending, Run
from tests.helpers import predictors
from tests.helpers.api import submit
from tests.helpers.leases import TICK, WIP, begin, claim, hand_back, lapse_leases, tick
from tests.helpers.proxy import Proxy
from tests.helpers.waiting import until


def find_again() -> None:
    """Lets a lost worker's leases expire; another worker's ticks find its jobs."""
    tick()  # the first look after a silence only marks the time
    lapse_leases()
    tick()


def test_the_jobs_of_a_lost_worker_are_run_once_more_and_then_failed(
    client: APIClient, work: Callable[..., Any]
) -> None:
    submit(client)
    for attempt in (1, 2):
        (run,) = claim()
        assert begin(run).attempt == attempt
        find_again()
        assert queue.sizes() == queue.Sizes(waiting=1, running=0)
    work()
    assert predictors.calls == []
    task = Task.objects.get()
    assert (task.status, task.error_info) == ("failed", "its worker was lost 2 times")


class BeatsMeanwhile(Bookkeeping):
    """A worker whose supervisor puts a run back right after one of its slots has found it forgotten."""

    def restore(self, run: Run) -> bool:
        assert super().restore(run)
        return super().restore(run)


def test_a_job_is_requeued_although_a_heartbeat_restored_it_in_an_emptied_redis(client: APIClient) -> None:
    task_id = submit(client)
    books = BeatsMeanwhile("beating")
    (run,), _ = books.claim("default", 1)
    get_redis().flushall()
    assert not books.end([Ending(run, "queued")])
    assert queue.waiting_ids() == [task_id]
    assert queue.sizes() == queue.Sizes(waiting=1, running=0)


def test_a_lost_workers_job_goes_to_the_front(client: APIClient) -> None:
    first, second = submit(client), submit(client)
    claim()
    find_again()
    assert queue.waiting_ids() == [first, second]


def test_a_claimed_job_that_never_started_has_had_no_attempt(client: APIClient, work: Callable[..., Any]) -> None:
    submit(client)
    for _ in range(MOST_LOSSES):
        claim()
        find_again()
    work()
    task = Task.objects.get()
    assert (task.status, task.attempt, len(predictors.calls)) == ("succeeded", 1, 1)


def test_a_job_that_no_worker_survives_is_archived_in_the_end(client: APIClient) -> None:
    task_id = submit(client)
    for _ in range(MOST_LOSSES + 1):
        claim()
        find_again()
    assert (queue.sizes(), queue.archived_ids()) == (queue.Sizes(0, 0), [task_id])


def test_a_claim_whose_answer_was_lost_is_answered_again(client: APIClient, redis_proxy: Proxy) -> None:
    ids = [submit(client) for _ in range(5)]
    books = Bookkeeping("one")
    redis_proxy.drop_replies = True
    with pytest.raises(redis.RedisError):
        books.claim("default", 3)
    redis_proxy.mend()
    runs, _ = books.claim("default", 3)
    assert [run.job_id for run in sorted(runs, key=lambda run: ids.index(run.job_id))] == ids[:3]
    assert queue.waiting_ids() == ids[3:]
    assert [run.job_id for run in books.claim("default", 3)[0]] == ids[3:]


def test_after_a_silence_leases_get_a_second_chance(client: APIClient) -> None:
    submit(client)
    claim()
    tick()
    lapse_leases()
    get_redis().hset(TICK, "at", time.time() - 60)
    tick()
    assert queue.sizes() == queue.Sizes(waiting=0, running=1)


@pytest.mark.parametrize("step", [3600, -3600])
def test_a_step_of_the_clock_takes_no_running_job_away(client: APIClient, step: int) -> None:
    submit(client)
    claim()
    step_clock(step)
    tick()
    assert queue.sizes() == queue.Sizes(waiting=0, running=1)
    (score,) = [score for _, score in get_redis().zrange(WIP, 0, -1, withscores=True)]
    assert 0 < score - FAR_SECONDS - time.time() <= 26


def step_clock(seconds: float) -> None:
    """Makes all that stands in Redis look as if its clock had just been stepped by so much."""
    get_redis().hset(TICK, "at", time.time() - seconds)
    for kind in ("wip", "scheduled", "reserved", "held", "stops"):
        key = f"{RQ_KEY_PREFIX}:{kind}:default"
        for member in get_redis().zrange(key, 0, -1):
            get_redis().zincrby(key, -seconds, member)


@pytest.mark.parametrize("step", [3600, -3600])
def test_a_step_of_the_clock_does_not_delay_scheduled_jobs(client: APIClient, step: int) -> None:
    task_id = submit(client)
    (run,) = claim()
    Bookkeeping("lost").end([Ending(run, "scheduled")])
    queue.reserve("a-submitter")
    step_clock(step)
    tick()
    until(lambda: (tick(), queue.sizes().waiting == 1 and get_redis().llen(f"{RQ_KEY_PREFIX}:queue:default"))[1])
    assert task_id in queue.waiting_ids()
    lapses_at = get_redis().zscore(f"{RQ_KEY_PREFIX}:reserved:default", "a-submitter") or 0  # or has lapsed already
    assert lapses_at - time.time() <= 60


@pytest.mark.parametrize("step", [3600, -3600])
def test_a_cancel_is_noticed_over_a_step_of_the_clock(step: int) -> None:
    _, seen = queue.look(0, holds=[], released=[])
    queue.request_stop("before")
    step_clock(step)
    queue.request_stop("after")
    asked, _ = queue.look(seen - step, holds=[], released=[])
    assert {"before", "after"} <= set(asked)


def test_rqs_own_clean_up_takes_no_job_away(client: APIClient) -> None:
    submit(client)
    claim()
    lapsed = time.time() - 3600
    (member,) = get_redis().zrange(WIP, 0, -1)
    get_redis().zadd(WIP, {member: FAR_SECONDS + lapsed})
    assert StartedJobRegistry("default", connection=get_redis()).count == 1
    assert queue.sizes() == queue.Sizes(waiting=0, running=1)


def test_a_job_that_exists_twice_runs_once(client: APIClient, work: Callable[..., Any]) -> None:
    """Redis forgot that a worker has it, as after a failover, and it is queued once more."""
    task_id = submit(client)
    (run,) = claim()
    begin(run)
    get_redis().flushall()
    queue.enqueue(task_id)
    work()
    assert predictors.calls == []
    task = Task.objects.get()
    assert (task.status, task.run_id) == ("running", run.execution_id)


def test_the_run_after_a_requeue_is_the_same_attempt(client: APIClient, work: Callable[..., Any]) -> None:
    submit(client)
    for _ in range(3):
        (run,) = claim()
        begin(run)
        hand_back(run)
    work()
    task = Task.objects.get()
    assert (task.status, task.attempt, len(predictors.calls)) == ("succeeded", 1, 1)


def test_a_late_write_of_an_older_run_is_refused(client: APIClient) -> None:
    task_id = submit(client, {"wait": True})
    older = threading.Thread(target=runner.run, args=(task_id, Run(task_id, "old", "default", {})), daemon=True)
    older.start()
    until(lambda: predictors.calls)
    lifecycle.start(task_id, run_id="new", lost=["old"])
    predictors.gate.set()
    older.join(20)
    task = Task.objects.get()
    assert (task.status, task.run_id, task.attempt) == ("running", "new", 2)


def test_a_run_may_not_follow_an_unfinished_one(client: APIClient) -> None:
    task_id = submit(client)
    lifecycle.start(task_id, run_id="one")
    with pytest.raises(InvalidTransition):
        lifecycle.start(task_id, run_id="two", lost=["somebody"], handed_back=["else"])
    assert Task.objects.get().run_id == "one"


def test_only_the_holder_of_a_job_keeps_an_outcome_with_it(client: APIClient) -> None:
    task_id = submit(client)
    (older,) = claim()
    find_again()
    (newer,) = claim()
    assert queue.keep_outcome(task_id, older.execution_id, "old") is False
    assert queue.keep_outcome(task_id, newer.execution_id, "new") is True
    assert get_redis().hget(Job.key_for(task_id), "outcome") == b"new"


def test_an_outcome_of_a_run_that_was_shut_out_does_not_keep_the_task_from_running(
    client: APIClient, work: Callable[..., Any]
) -> None:
    task_id = submit(client)
    (run,) = claim()
    begin(run)
    get_redis().hset(Job.key_for(task_id), "outcome", '{"run_id": "older", "running_time": 1, "outputs": "stale"}')
    hand_back(run)
    work()
    task = Task.objects.get()
    assert (task.status, task.outputs, len(predictors.calls)) == ("succeeded", {"echo": {}}, 1)


def test_a_job_that_has_ended_is_not_queued_again(client: APIClient, work: Callable[..., Any]) -> None:
    task_id = submit(client)
    work()
    assert queue.enqueue(task_id) is False
    assert queue.sizes() == queue.Sizes(0, 0)
    assert len(predictors.calls) == 1


def test_an_unreadable_limit_falls_back_to_the_default(client: APIClient) -> None:
    task_id = submit(client)
    get_redis().hset(Job.key_for(task_id), "timeout", "soon")
    (run,) = claim()
    assert 300 < run.remaining() <= 320
