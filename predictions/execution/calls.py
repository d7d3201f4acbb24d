"""One call of a task's platform: its inputs, its outcome, its counters and its trace."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from django.conf import settings

from platforms import NO_ANSWER, Call, CallStopped, Platform, PlatformError, Prediction, StopReason, get_platform
from predictions import lifecycle
from predictions.database.errors import release_connection
from predictions.execution.inflight import in_flight
from predictions.execution.outcomes import Outcome
from predictions.lifecycle import InvalidTransition
from predictions.models import Task
from predictions.recorder import RecordUnavailable
from predictions.telemetry import counters, tracing
from predictions.uploads import upload_address

logger = logging.getLogger(__name__)

NOTE_PAUSES_SECONDS = (0.1, 0.3, 1.0, 2.0, 4.0)
UNANSWERED_CANCELS = 3


def platform_of(task: Task) -> Platform:
    return get_platform(task.platform, settings.PLATFORMS)


def new_call(task: Task, timeout_seconds: float) -> Call:
    """The platform's call for a task. It waits for the job of an earlier attempt instead of submitting another."""

    call = Call(
        timeout_seconds=timeout_seconds,
        request_id=task.request_id,
        traceparent=task.traceparent,
        upstream_id=task.upstream_id,
        on_submitted=lambda upstream_id: _note_upstream(task, upstream_id, call),
        on_upstream_cancel=partial(lifecycle.note_upstream_cancel, task),
    )
    return call


def _note_upstream(task: Task, upstream_id: str, call: Call) -> None:
    """Notes the platform's job on the row, patiently: the same note twice does no harm, a second job would.

    Where the database stays away the job is waited for without the note; only a lost worker would have needed it.
    Raises CallStopped.
    """
    for pause in NOTE_PAUSES_SECONDS:
        try:
            lifecycle.note_upstream(task, upstream_id)
        except InvalidTransition as ended:
            raise CallStopped(StopReason.CANCELED) from ended
        except RecordUnavailable:
            release_connection()
            call.wait(pause)
            continue
        release_connection()
        return
    logger.error("the platform's job %s could not be noted with its task", upstream_id, extra={"task_id": task.pk})


def ask(
    task: Task, call: Call, *, caller_is_gone: Callable[[], bool] | None = None
) -> tuple[Outcome, PlatformError | None]:
    """Calls the platform, without a database connection in hand. Raises CallStopped, also when the caller is gone."""
    release_connection()
    started = time.monotonic()
    try:
        with in_flight(task.pk, call, caller_is_gone=caller_is_gone), counted(task, call):
            result = platform_of(task).predict(prediction_of(task), call)
    except PlatformError as error:
        logger.info("the prediction failed: %s", error)
        return Outcome(task.run_id, time.monotonic() - started, error_info=str(error)), error
    seconds = result.running_time if result.running_time is not None else time.monotonic() - started
    return Outcome(task.run_id, seconds, outputs=result.outputs), None


@contextmanager
def traced_run(task: Task, call: Call) -> Iterator[None]:
    """The worker's part of the trace; the wait in the queue is a part of it too, told afterwards."""
    about: dict[str, str | int] = {"task.id": task.pk, "task.attempt": task.attempt}
    with tracing.span("queue", tracing.SpanKind.INTERNAL, task.traceparent, began_at=task.created_at, attributes=about):
        pass
    with tracing.span("run task", tracing.SpanKind.CONSUMER, task.traceparent, attributes=about) as run:
        call.traceparent = run.traceparent
        yield


@contextmanager
def counted(task: Task, call: Call) -> Iterator[None]:
    """Counts and traces the platform's part of a prediction, however it ends."""
    started = time.monotonic()
    outcome = "error"
    try:
        about = {"platform": task.platform, "model": task.model_name, "task.id": task.pk}
        name = f"{task.platform} prediction"
        with tracing.span(name, tracing.SpanKind.CLIENT, call.traceparent, attributes=about) as client:
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


def prediction_of(task: Task) -> Prediction:
    return Prediction(
        task.model_name, task.inputs or {}, model_version=task.model_version, upload_webhook=upload_address(task.pk)
    )


def cancel_upstream(*tasks: Task) -> None:
    """Cancels the platform's jobs of tasks that ended while no process waited for them, and records the results.

    After a few in a row that the platform did not answer, it is not asked for the others.
    """
    unanswered = 0
    for task in tasks:
        if not task.upstream_id or task.upstream_cancel:
            continue
        if unanswered >= UNANSWERED_CANCELS:
            lifecycle.note_upstream_cancel(task, "not asked: the platform does not answer")
            continue
        release_connection()
        platform = platform_of(task)
        platform.cancel(task.upstream_id, new_call(task, platform.timeout_seconds))
        unanswered = unanswered + 1 if task.upstream_cancel == NO_ANSWER else 0
