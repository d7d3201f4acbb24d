"""Runs predictions and records their outcomes, for waiting callers and for workers."""

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress

from django.conf import settings

from platforms import CallStopped, Chunk, PlatformError, StopReason
from predictions import lifecycle
from predictions.database.errors import database_errors, release_connection
from predictions.execution import outcomes
from predictions.execution.calls import ask, cancel_upstream, counted, new_call, platform_of, prediction_of, traced_run
from predictions.execution.inflight import in_flight
from predictions.execution.outcomes import Outcome
from predictions.lifecycle import AttemptsExhausted, InvalidTransition
from predictions.models import Task
from predictions.queue.queue import MAX_ATTEMPTS
from predictions.recorder import RecordRefused, RecordUnavailable
from predictions.telemetry import counters
from predictions.telemetry.log_context import working_on
from predictions.worker.runs import Run

logger = logging.getLogger(__name__)

STREAM_TEXT_LIMIT = 1_000_000


class TaskCanceled(Exception):
    """The task was canceled, or ended in another way, while its caller waited for it."""

    def __init__(self) -> None:
        super().__init__("the task was canceled while it ran")


def predict(task: Task, *, caller_is_gone: Callable[[], bool] | None = None) -> Task:
    """Creates the task as `running`, runs it while the caller waits, and answers the ended task.

    When the caller is gone, the platform's side is ended and the task `canceled`; without `caller_is_gone` it runs to
    its end. Raises PlatformError once the failure is recorded, TaskCanceled, RecordUnavailable and RecordRefused.
    """
    lifecycle.create(task)
    call = new_call(task, settings.TASK_TIMEOUT)
    with working_on(task_id=task.pk):
        try:
            with _defects_on_record(task):
                outcome, error = ask(task, call, caller_is_gone=caller_is_gone)
        except CallStopped as stopped:
            with suppress(InvalidTransition):
                lifecycle.cancel(task)
            raise TaskCanceled from stopped
        try:
            outcomes.write_or_leave(task, outcome)
        except InvalidTransition as ended:
            raise TaskCanceled from ended
    if error is not None:
        raise error
    return task


def stream(task: Task, *, caller_is_gone: Callable[[], bool] | None) -> Generator[Chunk, None, None]:
    """Creates the task as `running` and yields each piece the moment it comes; then the task has ended.

    The text of the pieces, up to STREAM_TEXT_LIMIT characters, becomes the task's outputs. When the caller
    hangs up or closes the generator, the platform's stream ends and the task becomes `canceled`. Without
    `caller_is_gone` the stream is read to its end instead. Raises as `predict`.
    """
    lifecycle.create(task)
    call = new_call(task, settings.TASK_TIMEOUT)
    ids = {"task_id": task.pk, "request_id": task.request_id}
    text = ""
    started = time.monotonic()
    is_read = True
    try:
        with (
            _defects_on_record(task),
            in_flight(task.pk, call, caller_is_gone=caller_is_gone),
            counted(task, call),
        ):
            release_connection()
            for chunk in platform_of(task).stream(prediction_of(task), call):
                text += chunk.data[: STREAM_TEXT_LIMIT - len(text)]
                if is_read:
                    try:
                        yield chunk
                    except GeneratorExit:
                        if caller_is_gone is not None:
                            raise
                        is_read = False
        outcomes.write_or_leave(task, Outcome(task.run_id, time.monotonic() - started, outputs=text))
    except (CallStopped, GeneratorExit, InvalidTransition) as stopped:
        logger.info("the stream was ended from here: the task is canceled", extra=ids)
        with suppress(InvalidTransition):
            lifecycle.cancel(task)
        if isinstance(stopped, GeneratorExit):
            raise
        if is_read:
            raise TaskCanceled from stopped
    except PlatformError as error:
        logger.info("the stream failed: %s", error, extra=ids)
        with suppress(InvalidTransition):
            outcomes.write_or_leave(task, Outcome(task.run_id, time.monotonic() - started, error_info=str(error)))
        if is_read:
            raise


@contextmanager
def _defects_on_record(task: Task) -> Iterator[None]:
    """Fails the task on an unforeseen error: no sweep recovers a task whose caller waits."""
    try:
        yield
    except (CallStopped, PlatformError):
        raise
    except Exception:
        with suppress(InvalidTransition, RecordUnavailable):
            outcomes.write_or_leave(task, Outcome(task.run_id, 0.0, error_info="internal error"))
        raise


def run(task_id: str, run: Run) -> None:
    """Runs a task in a worker, or only writes the outcome of an earlier run.

    An ended or canceled task is left alone, and so is one that another run has; one that already had its attempts
    fails. An outcome that cannot be written is kept with the job. Raises RecordUnavailable, and CallStopped when the
    worker shuts down.
    """
    if run.outcome is not None and outcomes.write_kept(task_id, Outcome.read(run.outcome)):
        return
    try:
        task = lifecycle.start(
            task_id,
            run_id=run.execution_id,
            lost=run.lost,
            handed_back=run.handed_back,
            attempts=MAX_ATTEMPTS,
        )
    except AttemptsExhausted:
        give_up(task_id, f"its worker was lost {MAX_ATTEMPTS} times")
        return
    except InvalidTransition:
        logger.info("task is not to be run: it has ended, or another run has it")
        with database_errors():
            canceled = Task.objects.filter(pk=task_id, status=Task.Status.CANCELED).first()
        if canceled is not None:
            cancel_upstream(canceled)
        return
    except RecordRefused as error:
        logger.error("the record service refused to let the task start: %s", error)
        give_up(task_id, "the record service refused the task")
        return
    with working_on(request_id=task.request_id):
        _run_started(task, run)


def _run_started(task: Task, run: Run) -> None:
    call = new_call(task, run.remaining())
    run.stops(lambda reason: call.stop(StopReason(reason)))
    try:
        with traced_run(task, call):
            outcome, _ = ask(task, call)
    except CallStopped as stopped:
        if stopped.reason is StopReason.SHUTDOWN:
            put_back([(task.pk, task.run_id)], lost=False)
            raise
        logger.info("the prediction was stopped: the task was canceled")
        with suppress(InvalidTransition):
            lifecycle.cancel(task, by_run=True)
        return
    run.is_settling = True
    counters.async_prediction(outcome.running_time, failed=outcome.error_info is not None)
    outcomes.write_or_keep(task, outcome)


def put_back(runs: Iterable[tuple[str, str]], *, lost: bool) -> None:
    """Says on the tasks of these runs (task id, run id) that they wait again; see lifecycle.put_back.

    Where the database does not answer, the rows say `running` until the next run begins.
    """
    try:
        for task_id, run_id in runs:
            lifecycle.put_back(task_id, run_id, lost=lost)
    except RecordUnavailable:
        logger.warning("tasks wait in the queue again, but the database does not answer: their rows say `running`")


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
