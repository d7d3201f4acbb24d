"""Submits and cancels tasks."""

import logging
import re
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from platforms import Call, Chunk, get_platform
from predictions import lifecycle, statements
from predictions.database.errors import database_errors, release_connection
from predictions.execution import runner
from predictions.execution.calls import cancel_upstream
from predictions.lifecycle import InvalidTransition
from predictions.models import Task
from predictions.queue import queue
from predictions.queue.queue import QueueClosed, QueueFull
from predictions.recorder import RecordError, RecordUnavailable
from predictions.redis.errors import QueueUnavailable
from predictions.telemetry import tracing
from predictions.telemetry.log_context import request_id

logger = logging.getLogger(__name__)

TASK_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
OnTask = Callable[[Task], None]
"""Gets the task that a call is about, also where the call then fails."""


class TaskNotFound(Exception):
    """No task has this id."""


class AlreadyFinished(Exception):
    """The task has ended and stays as it is."""

    def __init__(self, status: str) -> None:
        super().__init__(f"the task has already ended: {status}")
        self.status = status


class NotOurs(Exception):
    """Another agent looks after the task; this one only keeps its record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionRequest:
    """A caller's request, from any interface."""

    model_name: str
    inputs: dict[str, Any]
    model_version: str = ""
    user_id: str = ""


def new_task(request: PredictionRequest, status: Task.Status) -> Task:
    """A task of this agent, not yet saved."""
    return Task(
        agent=settings.TASK_TYPE_NAME,
        platform=settings.ML_PLATFORM,
        model_name=request.model_name,
        model_version=request.model_version,
        inputs=request.inputs,
        user_id=request.user_id,
        request_id=request_id(),
        traceparent=tracing.current(),
        status=status,
    )


def predict(
    request: PredictionRequest, *, caller_is_gone: Callable[[], bool] | None = None, on_task: OnTask = lambda task: None
) -> Task:
    """Runs a prediction while the caller waits; `on_task` gets the task before it begins. Raises as runner.predict."""
    task = new_task(request, Task.Status.RUNNING)
    on_task(task)
    return runner.predict(task, caller_is_gone=caller_is_gone)


def stream(
    request: PredictionRequest, *, caller_is_gone: Callable[[], bool] | None
) -> tuple[Task, Generator[Chunk, None, None]]:
    """A task and the pieces of its streamed prediction, which begins with the first one asked for.

    Raises as runner.stream, from the first piece on.
    """
    task = new_task(request, Task.Status.RUNNING)
    return task, runner.stream(task, caller_is_gone=caller_is_gone)


def describe(model_name: str) -> Any:
    """The model's description of its inputs, from this agent's platform. Raises PlatformError."""
    platform = get_platform(settings.ML_PLATFORM, settings.PLATFORMS)
    call = Call(timeout_seconds=platform.timeout_seconds, request_id=request_id(), traceparent=tracing.current())
    return platform.docs(model_name, call)


def submit(request: PredictionRequest, *, on_task: OnTask = lambda task: None) -> Task:
    """Queues a prediction and answers its task; `on_task` gets the task before it is on record.

    The place in the queue is taken first, so a refused submission leaves no record; one that fails later leaves a
    `failed` one. Raises QueueFull, QueueUnavailable, RecordUnavailable and RecordRefused.
    """
    task = new_task(request, Task.Status.PENDING)
    on_task(task)
    try:
        task.queue_num = queue.reserve(task.pk)
    except QueueUnavailable:
        # Operators see the refused task. It may be canceled as soon as it is on record.
        with suppress(RecordError, InvalidTransition):
            lifecycle.create(task)
            lifecycle.fail(task, "the queue did not answer")
        raise
    try:
        task.queue_id = task.pk
        lifecycle.create(task)
    except RecordError:
        with suppress(QueueUnavailable):
            queue.remove([task.pk])
        with suppress(RecordError, InvalidTransition):  # the row may be there, and only the answer was lost
            lifecycle.fail(task, "the task could not be recorded")
        raise
    release_connection()  # Redis may take a while to answer
    try:
        queue.enqueue(task.pk)
    except (QueueUnavailable, QueueFull) as error:
        try:
            lifecycle.fail(task, "the task could not be queued")
        except InvalidTransition:  # only the answer was lost: a worker has ended the task already
            if not isinstance(error, QueueClosed):
                return task
        raise
    logger.info("task submitted", extra={"task_id": task.pk, "queue_size": task.queue_num})
    return task


def get(task_id: str) -> Task:
    """The task as it stands. Raises TaskNotFound and RecordUnavailable."""
    if not TASK_ID.fullmatch(task_id):
        raise TaskNotFound
    with database_errors():
        task = statements.read(task_id)
    if task is None:
        raise TaskNotFound
    return task


def cancel(task_id: str, *, on_task: OnTask = lambda task: None) -> bool:
    """Cancels the task; whether it was running (then its prediction is being ended, wherever it runs).

    The row decides; removing the job only frees its place. Raises TaskNotFound, AlreadyFinished, NotOurs and
    RecordUnavailable.
    """
    task = get(task_id)
    on_task(task)
    if not task.is_ended and task.agent != settings.TASK_TYPE_NAME:
        raise NotOurs
    was = _cancel_row(task, Task.Status.PENDING, Task.Status.RUNNING)
    if was is None:
        raise AlreadyFinished(get(task_id).status)
    was_running = was == Task.Status.RUNNING
    release_connection()  # Redis may take a while to answer
    try:
        if queue.remove([task.pk]):  # it waited, also where its row could not say so
            cancel_upstream(task)  # of an earlier attempt, which no worker waits for now
            return False
        if was_running:
            queue.request_stop(task.pk)
    except QueueUnavailable:
        logger.warning(
            "canceled, but Redis did not answer: the job ends without running the task", extra={"task_id": task.pk}
        )
    return was_running


def _cancel_row(task: Task, *comes_from: Task.Status) -> Task.Status | None:
    """Moves the row to `canceled`. Returns its former status, or None if it had none of `comes_from`."""
    for status in comes_from:
        try:
            lifecycle.cancel(task, only_from=status)
        except InvalidTransition:
            continue
        except RecordUnavailable:
            if task.status != Task.Status.CANCELED:
                raise
            logger.warning("canceled; the init check will tell the record service", extra={"task_id": task.pk})
        return status
    return None


def cancel_pending() -> tuple[int, int]:
    """Cancels every task that waits; how many waited, and how many of them are canceled now.

    One that a worker takes at the same moment runs on. Raises QueueUnavailable and RecordUnavailable.
    """
    waiting = queue.waiting_ids()
    with database_errors():
        tasks = list(Task.objects.filter(pk__in=waiting, status=Task.Status.PENDING).defer("inputs", "outputs"))
    canceled = [task for task in tasks if _cancel_row(task, Task.Status.PENDING)]
    release_connection()
    if canceled:
        queue.remove(task.pk for task in canceled)
        cancel_upstream(*canceled)  # of earlier attempts, which no worker waits for now
    return len(waiting), len(canceled)
