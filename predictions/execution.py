"""Running a prediction and writing down what came of it, for callers who wait and for workers."""

import json
import logging
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from django.conf import settings
from django.db import connection

from platforms import (
    Call,
    CallStopped,
    Platform,
    PlatformError,
    Prediction,
    StopReason,
    get_platform,
)
from predictions import lifecycle
from predictions.context import request_id, working_on
from predictions.inflight import in_flight
from predictions.lifecycle import InvalidTransition, database_errors
from predictions.models import Task
from predictions.queue import queue
from predictions.queue.queue import QueueUnavailable
from predictions.recorder import RecordRefused, RecordUnavailable

logger = logging.getLogger(__name__)


class TaskCanceled(Exception):
    """The task was canceled, or ended in another way, while its caller waited for it."""

    def __init__(self, task_id: str) -> None:
        super().__init__("the task was canceled while it ran")
        self.task_id = task_id


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a prediction gave: outputs, or why there are none. `running_time` in seconds."""

    run_id: str
    running_time: float
    outputs: Any = None
    error_info: str | None = None


def platform_of(task: Task) -> Platform:
    return get_platform(task.platform, settings.PLATFORMS)


def predict(task: Task) -> Task:
    """Creates the task as `running`, runs it while the caller waits, and answers the ended task.

    Raises PlatformError once the failure is recorded, TaskCanceled, RecordUnavailable and RecordRefused.
    """
    lifecycle.create(task)
    call = Call(timeout_seconds=settings.TASK_TIMEOUT, request_id=request_id())
    with working_on(task_id=task.pk):
        try:
            outcome, error = _ask(task, call)
        except CallStopped as stopped:
            raise TaskCanceled(task.pk) from stopped
        except Exception:  # a defect of ours: the record must not stay `running` because of it
            lifecycle.fail(task, "internal error")
            raise
        try:
            _write(task, outcome)
        except InvalidTransition as ended:
            raise TaskCanceled(task.pk) from ended
        except RecordUnavailable:
            logger.error("the prediction %s, but its record could not be written", _word(outcome))
            raise
    if error is not None:
        raise error
    return task


def run(
    task_id: str,
    *,
    run_id: str,
    attempt: int,
    attempts: int,
    call: Call,
    kept: str | None,
) -> None:
    """A worker's turn at a task: run it, or only write down what an earlier turn `kept`.

    An ended or canceled task is left alone; one that already had its `attempts` fails. An outcome that cannot be
    written is kept with the job. Raises RecordUnavailable, and CallStopped when the worker shuts down.
    """
    if kept is not None:
        _write_kept(task_id, Outcome(**json.loads(kept)))
        return
    try:
        task = lifecycle.start(task_id, run_id=run_id, attempt=attempt)
    except InvalidTransition:
        logger.info("task is not to be run: it has ended")
        return
    except RecordRefused as error:
        logger.error("the record service refused to let the task start: %s", error)
        give_up(task_id, "the record service refused the task")
        return
    if attempt > attempts:
        give_up(task_id, f"its worker was lost {attempts} times")
        return
    try:
        outcome, _ = _ask(task, call)
    except CallStopped as stopped:
        if stopped.reason is StopReason.SHUTDOWN:
            raise
        logger.info("the prediction was stopped: the task was canceled")
        with suppress(InvalidTransition):
            lifecycle.cancel(task)
        return
    _write_or_keep(task, outcome)


def give_up(task_id: str, why: str) -> None:
    """Fails a task that cannot be run (again); an ended one is left alone. Raises RecordUnavailable."""
    with database_errors():
        task = Task.objects.filter(pk=task_id).first()
    if task is not None and not task.is_ended:
        try:
            lifecycle.fail(task, why)
        except InvalidTransition:
            logger.info("task ended by itself")


def _ask(task: Task, call: Call) -> tuple[Outcome, PlatformError | None]:
    """Calls the platform, without a database connection in hand. Raises CallStopped."""
    prediction = Prediction(task.model_name, task.inputs or {}, model_version=task.model_version)
    _release_connection()
    started = time.monotonic()
    try:
        with in_flight(task.pk, call):
            result = platform_of(task).predict(prediction, call)
    except PlatformError as error:
        logger.info("the prediction failed: %s", error)
        return Outcome(task.run_id, time.monotonic() - started, error_info=str(error)), error
    seconds = result.running_time if result.running_time is not None else time.monotonic() - started
    return Outcome(task.run_id, seconds, outputs=result.outputs), None


def _release_connection() -> None:
    """Gives the pooled connection back for the time of the wait; an unpooled one is this thread's own."""
    if "pool" in connection.settings_dict["OPTIONS"] and not connection.in_atomic_block:
        connection.close()


def _write(task: Task, outcome: Outcome) -> None:
    if outcome.error_info is None:
        lifecycle.succeed(task, outcome.outputs, outcome.running_time)
    else:
        lifecycle.fail(task, outcome.error_info, running_time=outcome.running_time, by_run=True)


def _write_or_keep(task: Task, outcome: Outcome) -> None:
    """Does not return before what the prediction gave is safe: in the database, or with the job (then it raises)."""
    pause = 0.1
    while True:
        try:
            _write(task, outcome)
        except InvalidTransition:
            logger.info("what the prediction gave came too late: the task has ended, or another run has it")
        except RecordUnavailable:
            logger.error("the prediction %s, but its record could not be written yet", _word(outcome))
            with suppress(QueueUnavailable):
                queue.keep_outcome(task.pk, json.dumps(asdict(outcome)))
                raise
            time.sleep(pause)
            pause = min(5.0, pause * 2)
            continue
        return


def _write_kept(task_id: str, outcome: Outcome) -> None:
    """Writes what an earlier turn kept; where the row has it and only the record service does not, tells that."""
    with database_errors():
        task = Task.objects.filter(pk=task_id).first()
    if task is None:
        logger.error("the task is gone: what its prediction gave is dropped")
        return
    if task.unreported:
        lifecycle.report_ended(task)
        return
    task.run_id = outcome.run_id
    try:
        _write(task, outcome)
    except InvalidTransition:
        logger.info("what the prediction gave came too late: the task has ended, or another run has it")


def _word(outcome: Outcome) -> str:
    return "succeeded" if outcome.error_info is None else "failed"
