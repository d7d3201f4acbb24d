"""The one place where a task's status changes, each time by one conditional UPDATE.

    create ──► pending ──► running ──► succeeded
                  │ ▲        │ └─────► failed
                  │ └────────┤
                  │ put back │
                  ├──────────┼───────► failed
                  └──────────┴───────► canceled

An ended task never changes. A running task is put back when its worker handed it back or was lost; its next run is the
same attempt in the first case, the next one in the second. Each run has an id of its own, and only the latest may
write its outcome. `run_id` of a pending task names the run that was lost with its worker; it is empty otherwise.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.db.models import F, Q
from django.utils.timezone import now

from predictions import statements
from predictions.database.errors import database_errors, release_connection
from predictions.models import ENDED, UNFINISHED, Task, status_is
from predictions.recorder import Change, Recorder, RecordRefused, RecordUnavailable, RecordUnknown, get_recorder
from predictions.telemetry.counters import task_finished

logger = logging.getLogger(__name__)

Status = Task.Status
COMES_FROM: dict[str, tuple[str, ...]] = {
    Status.RUNNING: UNFINISHED,
    Status.SUCCEEDED: (Status.RUNNING,),
    Status.FAILED: UNFINISHED,
    Status.CANCELED: UNFINISHED,
}


class InvalidTransition(Exception):
    """The task is not in a state from which it can become that; nothing was changed."""

    def __init__(self, task_id: str, status: str) -> None:
        super().__init__(f"task {task_id} cannot become {status}")


class AttemptsExhausted(InvalidTransition):
    """The task has had all its attempts, and the worker of the last one was lost."""


def create(task: Task) -> Task:
    """Inserts the task and tells the recorder; if that fails the row becomes `failed`.

    Raises RecordUnavailable and RecordRefused.
    """
    if task.status == Status.RUNNING:
        task.started_at = task.created_at
        task.attempt = 1
    with database_errors():
        statements.insert(task)
    if _is_ours(task.agent):
        try:
            _recorder_to_tell().created(task, str(task.status))
        except (RecordUnavailable, RecordRefused):
            with suppress(RecordUnavailable):
                fail(task, "the task could not be recorded")
            raise
    return task


def start(
    task_id: str, *, run_id: str, lost: Sequence[str] = (), handed_back: Sequence[str] = (), attempts: int = 2
) -> Task:
    """`pending` → `running`; or `running` again after an earlier run that could not be put back.

    Only a run known to be over is followed: one that was `handed_back` (the same attempt goes on), or `lost` with its
    worker (the next attempt). So a job that exists twice, because Redis forgot something, does not run twice. Raises
    InvalidTransition (ended, unknown, or another run has it), AttemptsExhausted, RecordUnavailable and RecordRefused.
    """
    with database_errors():
        task = statements.start(
            task_id, run_id=run_id, moment=now(), lost=lost, handed_back=handed_back, attempts=attempts
        )
        if task is None:
            was_lost = Q(status=Status.RUNNING, run_id__in=lost) | Q(status=Status.PENDING) & ~Q(run_id="")
            exhausted = Task.objects.filter(was_lost, pk=task_id).exists()
            raise (AttemptsExhausted if exhausted else InvalidTransition)(task_id, Status.RUNNING)
    if _is_ours(task.agent):
        try:
            _recorder_to_tell().changed(Change(task_id, Status.RUNNING, queue_id=task_id))
        except RecordUnavailable:
            with suppress(RecordUnavailable):
                put_back(task_id, run_id, lost=False)
            raise
    return task


def put_back(task_id: str, run_id: str, *, lost: bool) -> None:
    """`running` → `pending`, if this run has the task: its job waits in the queue again.

    `lost`: with its worker, so the next run is the next attempt. Raises RecordUnavailable.
    """
    changes = {"status": Status.PENDING, "updated_at": now(), **({} if lost else {"run_id": ""})}
    with database_errors():
        statements.move(task_id, comes_from=(Status.RUNNING,), run_id=run_id, changes=changes)


def succeed(task: Task, outputs: Any, running_time: float) -> None:
    """`running` → `succeeded`. `running_time` in seconds. Raises InvalidTransition and RecordUnavailable."""
    _end(task, Status.SUCCEEDED, by_run=True, outputs=outputs, running_time=running_time)


def fail(
    task: Task, error_info: str, *, running_time: float | None = None, by_run: bool = False, tell: bool = True
) -> None:
    """→ `failed`. `by_run`: said by the run that holds the task, so refused if a later one took over.

    Without `tell`, `report_ended` notifies the record service later. Raises InvalidTransition and RecordUnavailable.
    """
    _end(task, Status.FAILED, by_run=by_run, tell=tell, error_info=error_info, running_time=running_time)


def cancel(task: Task, *, only_from: str | None = None, by_run: bool = False) -> None:
    """→ `canceled`, from `only_from` alone where given; `by_run` as in `fail`.

    Raises InvalidTransition and RecordUnavailable.
    """
    _end(task, Status.CANCELED, only_from=only_from, by_run=by_run)


def note_upstream(task: Task, upstream_id: str) -> None:
    """Keeps the platform's id of the prediction, for a later attempt to wait for it and for the operators.

    Raises InvalidTransition when the task was canceled or given to another run, and RecordUnavailable.
    """
    with database_errors():
        held = Task.objects.filter(status_is(Status.RUNNING), pk=task.pk, run_id=task.run_id)
        if not held.update(upstream_id=upstream_id[:200], updated_at=now()):
            raise InvalidTransition(task.pk, Status.RUNNING)
    task.upstream_id = upstream_id


def note_upstream_cancel(task: Task, what_came_of_it: str) -> None:
    """Records the result of canceling the prediction on the platform, the only change that an ended task takes."""
    logger.info("upstream job %s: %s", task.upstream_id, what_came_of_it, extra={"task_id": task.pk})
    task.upstream_cancel = what_came_of_it[:100]
    with suppress(RecordUnavailable), database_errors():
        Task.objects.filter(pk=task.pk).update(upstream_cancel=task.upstream_cancel)


def apply(task: Task, *, status: str = "", **fields: Any) -> Task:
    """Applies a change that a client of the record service reports. A repeated report changes nothing and is no error.

    An ended task still takes a `queue_id` alone: the client may learn it last. Raises InvalidTransition and
    RecordUnavailable.
    """
    moment = now()
    if status == Status.PENDING == task.status:
        status = ""
    changes = dict(fields)
    if status == Status.RUNNING:
        changes |= {"status": status, "started_at": moment, "attempt": F("attempt") + 1}
    elif status:
        changes |= {"status": status, "ended_at": moment}
    if status:
        comes_from = COMES_FROM.get(status, ())
    else:
        comes_from = tuple(Status.values) if fields.keys() == {"queue_id"} else UNFINISHED
    with database_errors():
        moved = Task.objects.filter(status_is(*comes_from), pk=task.pk).update(updated_at=moment, **changes)
        try:
            task.refresh_from_db()
        except Task.DoesNotExist as purged:
            raise InvalidTransition(task.pk, status or task.status) from purged
    wanted = {**fields, **({"status": status} if status else {})}
    if not moved and any(getattr(task, name) != value for name, value in wanted.items()):
        raise InvalidTransition(task.pk, status or task.status)
    return task


def _end(
    task: Task,
    status: Task.Status,
    *,
    by_run: bool = False,
    only_from: str | None = None,
    tell: bool = True,
    **fields: Any,
) -> None:
    """The conditional UPDATE that decides every race; zero rows means that someone else was first."""
    fields = {name: value for name, value in fields.items() if value is not None}
    report = _is_ours(task.agent) and get_recorder().remote
    moment = now()
    changes = {"status": status, "ended_at": moment, "updated_at": moment, "unreported": report, **fields}
    # A run that was taken for lost, and comes back before the next one has begun, still has the task.
    comes_from = (only_from,) if only_from else UNFINISHED if by_run else COMES_FROM[status]
    with database_errors():
        moved = statements.move(task.pk, comes_from=comes_from, run_id=task.run_id if by_run else None, changes=changes)
    if not moved:
        raise InvalidTransition(task.pk, status)
    for name, value in changes.items():
        setattr(task, name, value)
    logger.info("task %s", status.value, extra={"task_id": task.pk})
    task_finished(task.model_name, status.value)
    if report and tell:
        report_ended(task)


def report_ended(task: Task) -> None:
    """Tells the record service how an ended task ended, again if need be. Raises RecordUnavailable."""
    assert task.status in ENDED
    change = Change(
        task.pk, task.status, outputs=task.outputs, error_info=task.error_info, running_time=task.running_time
    )
    recorder = _recorder_to_tell()
    try:
        try:
            recorder.changed(change)
        except RecordUnknown:  # it was away when the task was created
            recorder.created(task, Status.RUNNING if task.status == Status.SUCCEEDED else Status.PENDING)
            recorder.changed(change)
    except RecordRefused as error:
        logger.error("the record service refused how a task ended: %s", error, extra={"task_id": task.pk})
    with database_errors():
        Task.objects.filter(pk=task.pk).update(unreported=False)
    task.unreported = False


def _recorder_to_tell() -> Recorder:
    """Releases the database connection before a remote record service is called."""
    recorder = get_recorder()
    if recorder.remote:
        release_connection()
    return recorder


def _is_ours(agent: str) -> bool:
    """Whether the task is this agent's own. Changes of other agents' tasks go to no record service."""
    return bool(agent == settings.TASK_TYPE_NAME)
