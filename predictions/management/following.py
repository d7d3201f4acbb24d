"""Watching tasks change, by looking at their rows twice a second."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from django.db.models import Q
from django.utils.timezone import now

from predictions.database.errors import database_errors, release_connection
from predictions.management.interruption import Interruption
from predictions.models import ENDED, Task, TaskQuerySet

LOOK_EVERY_SECONDS = 0.5
LOOK_BACK = timedelta(seconds=5)
"""How long a row may take from its `created_at` until it is seen here: clocks differ, and commits wait."""


def changes_of(task_ids: Iterable[str], interruption: Interruption) -> Iterator[Task]:
    """Each of the tasks as it stands and at every change, until all have ended. Raises RecordUnavailable.

    Ids that no task has are passed over.
    """
    watch = _Watch(Task.objects.all())
    left = list(task_ids)
    while left:
        yield from watch.changed(Q(pk__in=left))
        left = watch.unfinished()
        if left and interruption.wait(LOOK_EVERY_SECONDS):
            return


def changes_since(moment: datetime, tasks: TaskQuerySet, interruption: Interruption) -> Iterator[Task]:
    """Each of `tasks` that is submitted from `moment` on, and at every change, until interrupted.

    Raises RecordUnavailable.
    """
    watch = _Watch(tasks)
    while True:
        since = max(moment, now() - LOOK_BACK)
        yield from watch.changed(Q(pk__in=watch.unfinished()) | Q(created_at__gte=since))
        if interruption.wait(LOOK_EVERY_SECONDS):
            return


class _Watch:
    """The last printed state of each task, so that only changes are printed."""

    def __init__(self, tasks: TaskQuerySet) -> None:
        self._tasks = tasks.defer("inputs", "outputs").order_by("created_at")
        self._seen: dict[str, tuple[str, int]] = {}

    def unfinished(self) -> list[str]:
        return [pk for pk, (status, _) in self._seen.items() if status not in ENDED]

    def changed(self, which: Q) -> list[Task]:
        """Those of the tasks that are new, or not as the last look saw them."""
        with database_errors():
            tasks = list(self._tasks.filter(which))
        release_connection()
        before, self._seen = self._seen, {task.pk: (task.status, task.attempt) for task in tasks}
        return [task for task in tasks if before.get(task.pk) != self._seen[task.pk]]
