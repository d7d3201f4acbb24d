"""The outcome of a prediction, and how it reaches the row although the database or the record service is away.

A failed write never repeats the prediction: a job keeps the outcome, and only the write is repeated.
"""

import json
import logging
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from predictions import lifecycle
from predictions.database.errors import database_errors, release_connection
from predictions.lifecycle import InvalidTransition
from predictions.models import Task
from predictions.queue import queue
from predictions.recorder import RecordUnavailable
from predictions.redis.errors import QueueUnavailable

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outputs or an error. `running_time` in seconds."""

    run_id: str
    running_time: float
    outputs: Any = None
    error_info: str | None = None

    @classmethod
    def read(cls, text: str) -> "Outcome":
        """What `text` wrote."""
        return cls(**json.loads(text))

    @property
    def text(self) -> str:
        return json.dumps(asdict(self))


def write(task: Task, outcome: Outcome) -> None:
    """Raises InvalidTransition and RecordUnavailable."""
    if outcome.error_info is None:
        lifecycle.succeed(task, outcome.outputs, outcome.running_time)
    else:
        lifecycle.fail(task, outcome.error_info, running_time=outcome.running_time, by_run=True)


def write_or_leave(task: Task, outcome: Outcome) -> None:
    """For a waiting caller: an outcome that cannot be written now goes to a worker, which writes it later.

    Raises InvalidTransition, and RecordUnavailable once it is left. Where Redis is away too the init check fails the
    task when its time is up.
    """
    try:
        write(task, outcome)
    except RecordUnavailable:
        try:
            queue.leave_outcome(task.pk, outcome.text)
            logger.error("the prediction %s; a worker will write its record", _word(outcome))
        except QueueUnavailable:
            logger.error("the prediction %s, but its record could not be written", _word(outcome))
        raise


def write_or_keep(task: Task, outcome: Outcome) -> None:
    """For a job: does not return before the outcome is safe, in the database or with the job (then it raises)."""
    pause = 0.1
    while True:
        try:
            _write_unless_late(task, outcome)
            return
        except RecordUnavailable:
            logger.error("the prediction %s, but its record could not be written yet", _word(outcome))
            with suppress(QueueUnavailable):
                if queue.keep_outcome(task.pk, task.run_id, outcome.text):
                    raise
                # Redis has forgotten the run. The worker's next beat restores it.
            release_connection()
            time.sleep(pause)
            pause = min(5.0, pause * 2)


def write_kept(task_id: str, outcome: Outcome) -> bool:
    """Writes a kept outcome, or sends it to the record service if only that lacks it.

    False where the outcome is not that of the run that has the task. Raises RecordUnavailable.
    """
    with database_errors():
        task = Task.objects.filter(pk=task_id).first()
    if task is None:
        logger.error("the task is gone: the outcome of its prediction is dropped")
        return True
    if task.unreported:
        lifecycle.report_ended(task)
        return True
    task.run_id = outcome.run_id
    return _write_unless_late(task, outcome)


def _write_unless_late(task: Task, outcome: Outcome) -> bool:
    """Whether it was not too late. Raises RecordUnavailable."""
    try:
        write(task, outcome)
    except InvalidTransition:
        logger.info("the outcome came too late: the task has ended, or another run has it")
        return False
    return True


def _word(outcome: Outcome) -> str:
    return "succeeded" if outcome.error_info is None else "failed"
