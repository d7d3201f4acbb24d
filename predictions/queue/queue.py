"""This agent's queue: admission within the bound, removal, pause and contents.

Every function raises QueueUnavailable when Redis does not answer.
"""

import json
import time
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from django.conf import settings
from rq.defaults import RQ_KEY_PREFIX
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.utils import utcformat

from predictions.queue import scripts, worker_scripts
from predictions.redis.connections import get_redis
from predictions.redis.errors import QueueUnavailable, redis_errors

RUN_PREDICTION = "predictions.jobs.run_prediction"
PLACE_LAPSES_SECONDS = 60
KEEP_FINISHED_SECONDS = 300
KEEP_FAILED_SECONDS = 12 * 3600
HOLD_SECONDS = 15
MAX_ATTEMPTS = 2
"""A task whose worker was lost is run once more; one that loses two is not tried a third time."""


class QueueFull(Exception):
    """The queue holds MAX_QUEUE_SIZE tasks; nothing was queued."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the queue is full ({size} tasks are waiting)")


class QueueClosed(QueueUnavailable):
    """The agent is ending, and its Redis with it; nothing was queued."""

    def __init__(self) -> None:
        super().__init__("the queue is closed: the agent is ending")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many jobs wait (queued, scheduled, retrying) and run."""

    waiting: int
    running: int


def run_on_queue(script: str, *args: Any) -> Any:
    """Runs one of scripts.py, or of worker_scripts.py, on this agent's queue."""
    with redis_errors():
        return scripts.run_script(script, settings.TASK_TYPE_NAME, *args)


def _key(kind: str) -> str:
    return f"{RQ_KEY_PREFIX}:{kind}:{settings.TASK_TYPE_NAME}"


def reserve(task_id: str) -> int:
    """Takes one of the MAX_QUEUE_SIZE places for a task about to be queued; answers how many wait already.

    The place lapses by itself after a minute. Raises QueueFull and QueueClosed.
    """
    accepted, size = run_on_queue(scripts.RESERVE, task_id, settings.MAX_QUEUE_SIZE, PLACE_LAPSES_SECONDS)
    _refuse_if_closed(accepted)
    if not accepted:
        raise QueueFull(size)
    return int(size)


def enqueue(task_id: str, *, bounded: bool = True) -> bool:
    """Queues the task in the place that was reserved; False where the queue has, or had, the job already.

    Without a place it takes one, and raises QueueFull where there is none; `bounded=False` is for tasks that were
    accepted before.
    """
    bound = settings.MAX_QUEUE_SIZE if bounded else -1
    answer = run_on_queue(scripts.ENQUEUE, task_id, bound, *_job_fields(task_id))
    _refuse_if_closed(answer)
    if not answer:
        raise QueueFull(settings.MAX_QUEUE_SIZE)
    return bool(answer == 1)


def leave_outcome(task_id: str, outcome: str) -> None:
    """Queues a job that only writes the outcome, for a task that had no job."""
    _refuse_if_closed(run_on_queue(scripts.ENQUEUE, task_id, -1, *_job_fields(task_id, outcome=outcome)))


def _refuse_if_closed(answer: int) -> None:
    if answer < 0:
        raise QueueClosed


def _job_fields(task_id: str, **more: str) -> list[Any]:
    """The job's hash as RQ writes it (rq.job.Job.to_dict), so that RQ's own tools can read it."""
    moment = utcformat(datetime.now(UTC))
    fields = {
        "data": zlib.compress(JSONSerializer.dumps((RUN_PREDICTION, None, [task_id], {}))),
        "created_at": moment,
        "enqueued_at": moment,
        "origin": settings.TASK_TYPE_NAME,
        "description": f"run_prediction({task_id})",
        "timeout": settings.TASK_TIMEOUT,
        "result_ttl": KEEP_FINISHED_SECONDS,
        "failure_ttl": KEEP_FAILED_SECONDS,
        "status": JobStatus.QUEUED.value,
        **more,
    }
    return [part for pair in fields.items() for part in pair]


def remove(task_ids: Iterable[str]) -> int:
    """Takes waiting jobs and reserved places back; answers how many jobs were waiting."""
    return int(run_on_queue(scripts.REMOVE, *task_ids))


def sizes() -> Sizes:
    with redis_errors(), get_redis().pipeline(transaction=True) as pipe:
        pipe.llen(_key("queue"))
        pipe.zcard(_key("scheduled"))
        pipe.zcard(_key("wip"))
        queued, scheduled, running = pipe.execute()
    return Sizes(waiting=queued + scheduled, running=running)


def waiting_ids() -> list[str]:
    """The tasks that wait, in no order that means anything."""
    return [task_id.decode() for task_id in run_on_queue(scripts.UNFINISHED)[0]]


def waiting_outcomes() -> dict[str, str | None]:
    """Waiting task → the outcome of its prediction, if only the write is missing; else None."""
    task_ids = waiting_ids()
    with redis_errors(), get_redis().pipeline(transaction=False) as pipe:
        for task_id in task_ids:
            pipe.hget(Job.key_for(task_id), "outcome")
        kept = pipe.execute()
    return {task_id: outcome and outcome.decode() for task_id, outcome in zip(task_ids, kept, strict=True)}


def unfinished_ids() -> set[str]:
    """Every task that waits, is about to be queued, or runs: in a worker, or while its caller waits."""
    waiting, running = run_on_queue(scripts.UNFINISHED)
    return {task_id.decode() for task_id in (*waiting, *running)}


def archived_ids() -> list[str]:
    """The tasks whose jobs RQ's failed registry holds, oldest first."""
    with redis_errors():
        return [task_id.decode() for task_id in cast(list[bytes], get_redis().zrange(_key("failed"), 0, -1))]


def remove_archived(task_id: str) -> None:
    with redis_errors(), get_redis().pipeline(transaction=True) as pipe:
        pipe.zrem(_key("failed"), task_id)
        pipe.delete(Job.key_for(task_id))
        pipe.execute()


def failed_maintenance() -> int:
    """How many jobs of the scheduler's failed in the last KEEP_FAILED_SECONDS."""
    with redis_errors():
        return int(get_redis().zcount(_failed_maintenance(), time.time(), "+inf"))


def forget_lapsed_failures() -> None:
    """Drops failed jobs of the scheduler's that are older than KEEP_FAILED_SECONDS."""
    with redis_errors():
        get_redis().zremrangebyscore(_failed_maintenance(), "-inf", time.time())


def _failed_maintenance() -> str:
    return f"{RQ_KEY_PREFIX}:failed:{settings.MAINTENANCE_QUEUE}"


def keep_outcome(task_id: str, run_id: str, outcome: str) -> bool:
    """Stores the outcome with its job, for the run that will write it.

    False where the run does not hold the job, as far as Redis knows.
    """
    return bool(run_on_queue(worker_scripts.KEEP, task_id, run_id, outcome))


def pause(who: str) -> None:
    """Stops handing out this queue's jobs; submissions are still accepted."""
    with redis_errors():
        get_redis().set(_key("paused"), json.dumps({"who": who, "at": datetime.now(UTC).isoformat()}))


def resume() -> None:
    with redis_errors():
        get_redis().delete(_key("paused"))


def close(seconds: int) -> None:
    """Accepts nothing more and hands out nothing more, for so long."""
    with redis_errors():
        get_redis().set(_key("closed"), "1", ex=seconds)


def paused() -> bool:
    with redis_errors():
        return bool(get_redis().exists(_key("paused")))


def request_stop(task_id: str) -> None:
    """Asks whichever process runs the task to end its prediction."""
    run_on_queue(scripts.STOP, task_id)


def look(moment: float, *, holds: Collection[str], released: Collection[str]) -> tuple[list[str], float]:
    """Says which tasks' predictions this process waits for, and asks which tasks shall end.

    The caller renews `holds` within HOLD_SECONDS or names them in `released`. `moment` is the Redis time of the last
    look, 0 for none. Returns the tasks asked to end since then, those of `holds` asked to end at any time, and the
    time of this look.
    """
    seen, task_ids = run_on_queue(scripts.LOOK, moment, HOLD_SECONDS, len(released), *released, *holds)
    return [task_id.decode() for task_id in task_ids], float(seen)


def ping() -> None:
    with redis_errors():
        get_redis().ping()
