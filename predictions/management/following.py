"""Watching tasks change, by looking at their rows twice a second."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from threading import Event

from django.db.models import Q
from django.utils.timezone import now

from predictions.database.errors import database_errors, release_connection
from predictions.models import ENDED, Task, TaskQuerySet

LOOK_EVERY_SECONDS = 0.5
LOOK_BACK = timedelta(seconds=5)
"""How long a row may take from its `created_at` until it is seen here: clocks differ, and commits wait."""


def changes(
    tasks: TaskQuerySet, interrupted: Event, *, ids: Iterable[str] = (), since: datetime | None = None
) -> Iterator[Task]:
    """Yields tasks of these ids, or submitted from `since` on, as they stand and at every change.

    Ends when all have ended (with `since`, never) or on `interrupted`. Skips ids that no task has. Raises
    RecordUnavailable.
    """
    tasks = tasks.defer("inputs", "outputs").order_by("created_at")
    left = list(ids)
    seen: dict[str, tuple[str, int]] = {}
    while left or since:
        which = Q(pk__in=left)
        if since:
            which |= Q(created_at__gte=max(since, now() - LOOK_BACK))
        with database_errors():
            found = list(tasks.filter(which))
        release_connection()
        before, seen = seen, {task.pk: (task.status, task.attempt) for task in found}
        yield from (task for task in found if before.get(task.pk) != seen[task.pk])
        left = [task.pk for task in found if task.status not in ENDED]
        if (left or since) and interrupted.wait(LOOK_EVERY_SECONDS):
            return
