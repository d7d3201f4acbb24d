"""Setting lost and archived tasks right: InitCheck, the archive sweep, and the purge of old ones.

Each is safe to run at any time and from several places at once: every change is one conditional UPDATE, and a second
run finds nothing left to change.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.utils.timezone import now

from predictions import lifecycle, uploads
from predictions.database.errors import database_errors
from predictions.execution.calls import cancel_upstream
from predictions.execution.inflight import LOOK_EVERY_SECONDS
from predictions.lifecycle import InvalidTransition
from predictions.models import Task, TaskQuerySet
from predictions.queue import queue
from predictions.recorder import RecordUnavailable
from predictions.telemetry.counters import tasks_set_to_failed

logger = logging.getLogger(__name__)

LOST = "the task was lost: nothing worked on it any more"
LOOK_AGAIN_SECONDS = 2 * LOOK_EVERY_SECONDS
"""Before a task that nothing seems to work on is touched."""
PURGE_BATCH = 1000
REPORT_FAILURES = 3

OnProgress = Callable[[int, int | None], None]
"""Told how many are done, and of how many where that is known."""


def _untold(done: int, total: int | None) -> None:
    pass


@dataclass(slots=True)
class Summary:
    """How many tasks each kind of repair touched."""

    failed: int = 0
    enqueued_again: int = 0
    reported: int = 0
    left: int = 0
    purged: int = 0

    def __str__(self) -> str:
        counts = {name.replace("_", " "): count for name, count in asdict(self).items() if count}
        return ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing to do"


def init_check(*, dry_run: bool = False, on_progress: OnProgress = _untold) -> Summary:
    """Settles unfinished tasks of this agent on which nothing works: no job, and no process that holds them.

    A `pending` one never ran, or waits to run again: it is queued again, and fails only once it is older than
    TASK_RETENTION. A `running` one fails once it is older than TASK_TIMEOUT (until then its process may have no Redis
    to say that it holds the task), and its job on the platform is canceled. Sends the record service the results that
    it missed. `dry_run` only counts. Raises QueueUnavailable and RecordUnavailable, with nothing half done.
    """
    summary = Summary(reported=count_unreported() if dry_run else report_unreported())
    tasks = _without_a_job()
    failed = []
    for number, task in enumerate(tasks):
        on_progress(number, len(tasks))
        if _is_too_old(task):
            summary.failed += dry_run or _fail(task, LOST, as_seen=True)
            failed.append(task)
        elif task.status == Task.Status.PENDING:
            summary.enqueued_again += dry_run or queue.enqueue(task.pk, bounded=False)
        else:
            summary.left += 1
    if not dry_run:
        cancel_upstream(*(task for task in failed if task.is_ended))
    logger.info("init check: %s", summary)
    return summary


def _without_a_job() -> list[Task]:
    """The unfinished tasks of this agent that the queue knows nothing of, oldest first.

    It looks twice: a process says which tasks it holds up to LOOK_EVERY_SECONDS after it began them, and with a clock
    that was set their rows look old. The rows are read last: a task that ended meanwhile has no job either.
    """
    unfinished = Task.objects.unfinished().filter(agent=settings.TASK_TYPE_NAME)
    if settings.MODEL_NAME:
        unfinished = unfinished.filter(model_name=settings.MODEL_NAME)
    with database_errors():
        task_ids = list(unfinished.values_list("pk", flat=True))
    unknown = set(task_ids) - queue.unfinished_ids()
    if not unknown:
        return []
    time.sleep(LOOK_AGAIN_SECONDS)
    unknown -= queue.unfinished_ids()
    with database_errors():
        return list(unfinished.filter(pk__in=unknown).defer("inputs", "outputs").order_by("created_at"))


def _is_too_old(task: Task) -> bool:
    if task.status == Task.Status.PENDING:
        return task.created_at < now() - settings.TASK_RETENTION
    return (task.started_at or task.created_at) < now() - timedelta(seconds=settings.TASK_TIMEOUT)


def sweep_archive(*, dry_run: bool = False, on_progress: OnProgress = _untold) -> Summary:
    """Fails the tasks whose jobs are in RQ's failed registry, and removes those jobs.

    A job whose task could not be written stays (RQ drops it after twelve hours). `dry_run` counts what would be done.
    Raises QueueUnavailable.
    """
    summary = Summary()
    archived = queue.archived_ids()
    for number, task_id in enumerate(archived):
        on_progress(number, len(archived))
        try:
            with database_errors():
                task = Task.objects.filter(pk=task_id).defer("inputs", "outputs").first()
            if task is not None and not task.is_ended:
                summary.failed += dry_run or _fail(task, "failed due to system errors")
                cancel_upstream(*([] if dry_run else [task]))
        except RecordUnavailable:
            summary.left += 1
            continue
        if not dry_run:
            queue.remove_archived(task_id)
    if not dry_run:
        queue.forget_lapsed_failures()
    logger.info("archive sweep: %s", summary)
    return summary


def purge_tasks(
    older_than: timedelta | None = None, *, dry_run: bool = False, on_progress: OnProgress = _untold
) -> Summary:
    """Deletes tasks that ended longer than `older_than` (TASK_RETENTION) ago, a batch at a time, and their files.

    A task stays while a file of it cannot be deleted, and holds up no other. `dry_run` counts what would be deleted.
    Raises RecordUnavailable and StorageUnavailable.
    """
    summary = Summary()
    stuck: set[str] = set()
    since = datetime.min.replace(tzinfo=UTC)
    before = now() - (settings.TASK_RETENTION if older_than is None else older_than)
    old = Task.objects.ended().filter(ended_at__lt=before, unreported=False)
    if dry_run:
        with database_errors():
            return Summary(purged=old.count())
    while True:
        with database_errors():
            # from the end of the last batch: the rows before it are deleted, and stay in the index until a vacuum
            left = old.filter(ended_at__gte=since).exclude(pk__in=stuck).order_by("ended_at")
            batch = dict(left.values_list("pk", "ended_at")[:PURGE_BATCH])
            if not batch:
                break
            since = max(ended_at for ended_at in batch.values() if ended_at)
            stuck |= uploads.delete_files_of(batch)
            # "pk" alone is read: the outputs of a thousand rows may take gigabytes
            _, deleted = Task.objects.ended().filter(pk__in=batch.keys() - stuck).only("pk").delete()
            summary.purged += deleted.get(Task._meta.label, 0)
        on_progress(summary.purged, None)
    with database_errors():
        summary.left = len(stuck) + uploads.delete_files_before(before)
    logger.info("purge: %s", summary)
    if summary.left:
        raise uploads.StorageUnavailable(f"{summary.left} files could not be deleted; all else is purged")
    return summary


def count_unreported() -> int:
    """How many ended tasks the record service has not heard of. Raises RecordUnavailable."""
    with database_errors():
        return _unreported().count()


def report_unreported() -> int:
    """Tells the record service of ended tasks it has not heard of; stops after three that it does not take."""
    reported = failures = 0
    unreported = _unreported()
    with database_errors():
        task_ids = list(unreported.order_by("updated_at").values_list("pk", flat=True)[:PURGE_BATCH])
    for task_id in task_ids:
        try:
            with database_errors():
                task = unreported.filter(pk=task_id).first()
            if task is not None:
                lifecycle.report_ended(task)
                reported += 1
        except RecordUnavailable:
            failures += 1
            if failures >= REPORT_FAILURES:
                logger.warning("the record service does not take %d tasks", len(task_ids) - reported)
                break
    return reported


def _unreported() -> TaskQuerySet:
    return Task.objects.ended().filter(unreported=True, agent=settings.TASK_TYPE_NAME)


def _fail(task: Task, why: str, *, as_seen: bool = False) -> int:
    """1 if the task was failed, 0 if it had ended by itself, or `as_seen` begun a new run. Raises RecordUnavailable."""
    try:
        lifecycle.fail(task, why, by_run=as_seen)
    except InvalidTransition:
        return 0
    except RecordUnavailable:
        if not task.is_ended:
            raise
    tasks_set_to_failed(1)
    return 1
