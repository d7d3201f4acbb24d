"""Running a prediction and writing down what came of it, for callers who wait and for workers."""

import json
import logging
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from django.conf import settings

from platforms import (
    Call,
    CallStopped,
    Chunk,
    Platform,
    PlatformError,
    Prediction,
    StopReason,
    get_platform,
)
from predictions import counters, lifecycle, tracing
from predictions.context import request_id, working_on
from predictions.inflight import in_flight
from predictions.lifecycle import InvalidTransition, database_errors, release_connection
from predictions.models import Task
from predictions.queue import queue
from predictions.queue.queue import QueueUnavailable
from predictions.recorder import RecordRefused, RecordUnavailable
from predictions.uploads import upload_address

logger = logging.getLogger(__name__)

STREAM_TEXT_LIMIT = 1_000_000


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


def predict(task: Task, *, caller_is_gone: Callable[[], bool] | None = None) -> Task:
    """Creates the task as `running`, runs it while the caller waits, and answers the ended task.

    When the caller is gone, the platform's side is ended and the task `canceled`. Raises PlatformError once the failure
    is recorded, TaskCanceled, RecordUnavailable and RecordRefused.
    """
    lifecycle.create(task)
    call = _new_call(task, settings.TASK_TIMEOUT)
    with working_on(task_id=task.pk):
        try:
            outcome, error = _ask(task, call, caller_is_gone)
        except CallStopped as stopped:
            with suppress(InvalidTransition):
                lifecycle.cancel(task)
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


def stream(task: Task, *, caller_is_gone: Callable[[], bool]) -> Generator[Chunk, None, None]:
    """Creates the task as `running` and yields each piece the moment it comes; then the task has ended.

    The text of the pieces, up to STREAM_TEXT_LIMIT characters, becomes the task's outputs. When the caller is gone, or
    the generator is closed, the platform's side is ended and the task `canceled`. Raises as `predict`.
    """
    lifecycle.create(task)
    call = _new_call(task, settings.TASK_TIMEOUT)
    ids = {"task_id": task.pk, "request_id": task.request_id}
    text = _Text()
    started = time.monotonic()
    try:
        with in_flight(task.pk, call, is_wanted=lambda: not caller_is_gone()), _counted(task, call):
            release_connection()
            for chunk in platform_of(task).stream(_prediction_of(task), call):
                text.add(chunk.data)
                yield chunk
        lifecycle.succeed(task, text.value(), time.monotonic() - started)
    except (CallStopped, GeneratorExit, InvalidTransition) as stopped:
        logger.info("the stream was ended from here: the task is canceled", extra=ids)
        with suppress(InvalidTransition):
            lifecycle.cancel(task)
        if isinstance(stopped, GeneratorExit):
            raise
        raise TaskCanceled(task.pk) from stopped
    except PlatformError as error:
        logger.info("the stream failed: %s", error, extra=ids)
        with suppress(InvalidTransition):
            lifecycle.fail(task, str(error), running_time=time.monotonic() - started, by_run=True)
        raise
    except RecordUnavailable:
        logger.error("the stream ended, but its record could not be written", extra=ids)
        raise
    except Exception:  # a defect of ours: the record must not stay `running` because of it
        with suppress(InvalidTransition):
            lifecycle.fail(task, "internal error")
        raise


class _Text:
    """What was streamed, as far as it is kept."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._left = STREAM_TEXT_LIMIT

    def add(self, piece: str) -> None:
        if self._left > 0:
            self._pieces.append(piece[: self._left])
            self._left -= len(piece)

    def value(self) -> str:
        return "".join(self._pieces)


def describe(platform_name: str, model_name: str) -> Any:
    """The model's own description of its inputs, from the platform. Raises PlatformError."""
    platform = get_platform(platform_name, settings.PLATFORMS)
    return platform.docs(
        model_name,
        Call(timeout_seconds=platform.timeout_seconds, request_id=request_id(), traceparent=tracing.current()),
    )


def run(
    task_id: str,
    *,
    run_id: str,
    attempt: int,
    attempts: int,
    timeout_seconds: float,
    kept: str | None,
    on_call: Callable[[Call], None],
) -> None:
    """A worker's turn at a task: run it, or only write down what an earlier turn `kept`.

    `on_call` is given the call before it begins, to stop it by. An ended or canceled task is left alone; one that
    already had its `attempts` fails. An outcome that cannot be written is kept with the job. Raises
    RecordUnavailable, and CallStopped when the worker shuts down.
    """
    if kept is not None:
        _write_kept(task_id, Outcome(**json.loads(kept)))
        return
    if attempt > attempts:
        give_up(task_id, f"its worker was lost {attempts} times")
        return
    try:
        task = lifecycle.start(task_id, run_id=run_id, attempt=attempt)
    except InvalidTransition:
        logger.info("task is not to be run: it has ended")
        _cancel_upstream_of_canceled(task_id)
        return
    except RecordRefused as error:
        logger.error("the record service refused to let the task start: %s", error)
        give_up(task_id, "the record service refused the task")
        return
    call = _new_call(task, timeout_seconds)
    on_call(call)
    try:
        with _traced_run(task, call):
            outcome, _ = _ask(task, call)
    except CallStopped as stopped:
        if stopped.reason is StopReason.SHUTDOWN:
            raise
        logger.info("the prediction was stopped: the task was canceled")
        with suppress(InvalidTransition):
            lifecycle.cancel(task, by_run=True)
        return
    counters.async_prediction(outcome.running_time, failed=outcome.error_info is not None)
    _write_or_keep(task, outcome)


def cancel_upstream(task: Task) -> None:
    """Cancels the platform's job of a task that ended while nobody waited for that job; notes what came of it.

    A call that is stopped before it begins does just that: it finds the job, and gives it up.
    """
    if task.upstream_id and not task.upstream_cancel:
        call = _new_call(task, platform_of(task).timeout_seconds)
        call.stop(StopReason.CANCELED)
        with suppress(CallStopped, PlatformError):
            platform_of(task).predict(_prediction_of(task), call)


def give_up(task_id: str, why: str) -> None:
    """Fails a task that cannot be run (again); an ended one is left alone. Raises RecordUnavailable."""
    with database_errors():
        task = Task.objects.filter(pk=task_id).first()
    if task is not None and not task.is_ended:
        try:
            lifecycle.fail(task, why)
        except InvalidTransition:
            logger.info("task ended by itself")
            return
        cancel_upstream(task)


def _new_call(task: Task, timeout_seconds: float) -> Call:
    """The platform's call for a task; what an earlier attempt submitted is waited for, not submitted again."""

    def submitted(upstream_id: str) -> None:
        try:
            lifecycle.note_upstream(task, upstream_id)
        except InvalidTransition as ended:
            raise CallStopped(StopReason.CANCELED) from ended
        release_connection()

    return Call(
        timeout_seconds=timeout_seconds,
        request_id=task.request_id,
        traceparent=task.traceparent,
        upstream_id=task.upstream_id,
        on_submitted=submitted,
        on_upstream_cancel=partial(lifecycle.note_upstream_cancel, task),
    )


def _ask(
    task: Task, call: Call, caller_is_gone: Callable[[], bool] | None = None
) -> tuple[Outcome, PlatformError | None]:
    """Calls the platform, without a database connection in hand. Raises CallStopped."""
    release_connection()
    started = time.monotonic()
    try:
        is_wanted = None if caller_is_gone is None else lambda: not caller_is_gone()
        with in_flight(task.pk, call, is_wanted=is_wanted), _counted(task, call):
            result = platform_of(task).predict(_prediction_of(task), call)
    except PlatformError as error:
        logger.info("the prediction failed: %s", error)
        return Outcome(task.run_id, time.monotonic() - started, error_info=str(error)), error
    seconds = result.running_time if result.running_time is not None else time.monotonic() - started
    return Outcome(task.run_id, seconds, outputs=result.outputs), None


@contextmanager
def _traced_run(task: Task, call: Call) -> Iterator[None]:
    """The worker's part of the trace; the wait in the queue is a part of it too, told afterwards."""
    about: dict[str, str | int] = {"task.id": task.pk, "task.attempt": task.attempt}
    with tracing.part("queue", tracing.SpanKind.INTERNAL, task.traceparent, began_at=task.created_at, attributes=about):
        pass
    with tracing.part("run task", tracing.SpanKind.CONSUMER, task.traceparent, attributes=about) as run:
        call.traceparent = run.traceparent
        yield


@contextmanager
def _counted(task: Task, call: Call) -> Iterator[None]:
    """Counts and traces the platform's part of a prediction, however it ends."""
    started = time.monotonic()
    outcome = "error"
    try:
        about = {"platform": task.platform, "model": task.model_name, "task.id": task.pk}
        name = f"{task.platform} prediction"
        with tracing.part(name, tracing.SpanKind.CLIENT, call.traceparent, attributes=about) as client:
            call.traceparent = client.traceparent
            yield
        outcome = "succeeded"
    except PlatformError as error:
        outcome = error.outcome
        raise
    except (CallStopped, GeneratorExit):
        outcome = "stopped"
        raise
    finally:
        counters.platform_answered(task.platform, outcome, time.monotonic() - started)


def _prediction_of(task: Task) -> Prediction:
    return Prediction(
        task.model_name,
        task.inputs or {},
        model_version=task.model_version,
        upload_webhook=upload_address(task.pk),
    )


def _write(task: Task, outcome: Outcome) -> None:
    if outcome.error_info is None:
        lifecycle.succeed(task, outcome.outputs, outcome.running_time)
    else:
        lifecycle.fail(task, outcome.error_info, running_time=outcome.running_time, by_run=True)


def _cancel_upstream_of_canceled(task_id: str) -> None:
    with database_errors():
        task = Task.objects.filter(pk=task_id, status=Task.Status.CANCELED).first()
    if task is not None:
        cancel_upstream(task)


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
            release_connection()
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
