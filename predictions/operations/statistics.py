"""The dashboard's figures: waiting and running tasks, recently ended tasks, and their times.

The cost does not depend on the number of tasks: one round trip to Redis for the queue, one query for the unfinished
tasks, and three queries, cached for half a minute, for the ended ones. Those read the counts of whole minutes
(rollups.py), and percentiles come from a sample.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import quantiles
from typing import cast

from django.conf import settings
from django.core.cache import cache
from django.db.models import Count, Min, Q
from django.utils.timezone import now

from predictions.database.errors import database_errors
from predictions.models import Task
from predictions.operations import rollups
from predictions.operations.rollups import DAY, HOUR, MINUTE, Minutes, floor

REMEMBERED_SECONDS = 30
SAMPLE = 2000
"""From how many of the latest ended tasks percentiles are taken."""
ENDINGS = (Task.Status.SUCCEEDED, Task.Status.FAILED, Task.Status.CANCELED)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What this agent has not ended yet."""

    waiting: int
    running: int
    oldest_waiting_seconds: float
    """How long the oldest waiting task has waited; 0 where none waits."""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Seconds that half, nine in ten and 99 in 100 tasks took at most; None where none has such a time."""

    p50: float | None
    p90: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """One model on one platform, among the latest SAMPLE tasks of a day."""

    model_name: str
    platform: str
    ended: int
    failed: int
    run_time: Percentiles
    queue_time: Percentiles

    @property
    def failed_percent(self) -> float:
        return 100 * self.failed / self.ended


@dataclass(frozen=True, slots=True)
class Ended:
    """How many tasks ended in each minute or hour, oldest first. `counts`: status → one number for each of `starts`."""

    starts: list[datetime]
    counts: dict[str, list[int]]

    @property
    def total(self) -> int:
        return sum(map(sum, self.counts.values()))

    @property
    def failed(self) -> int:
        return sum(self.counts[Task.Status.FAILED])

    @property
    def failed_percent(self) -> float:
        return 100 * self.failed / self.total if self.total else 0.0


def unfinished() -> Unfinished:
    """One query on the index of unfinished tasks. Raises RecordUnavailable."""
    is_pending = Q(status=Task.Status.PENDING)
    ours = Task.objects.unfinished().filter(agent=settings.TASK_TYPE_NAME)
    with database_errors():
        told = ours.aggregate(
            waiting=Count("pk", filter=is_pending),
            running=Count("pk", filter=~is_pending),
            oldest=Min("created_at", filter=is_pending),
        )
    waited = (now() - told["oldest"]).total_seconds() if told["oldest"] else 0.0
    return Unfinished(told["waiting"], told["running"], max(0.0, waited))


def ended_lately() -> tuple[Ended, Ended]:
    """What ended in the last hour by minutes, and in the last day by hours. Raises RecordUnavailable."""
    by_minute = cast(Minutes, cache.get_or_set("by_minute", rollups.by_minute, REMEMBERED_SECONDS))
    return _in_steps(by_minute, MINUTE, HOUR), _in_steps(by_minute, HOUR, DAY)


def by_model() -> list[ModelFigures]:
    """Each model on each platform, the busiest first. Raises RecordUnavailable."""
    return cast(list[ModelFigures], cache.get_or_set("by_model", _by_model, REMEMBERED_SECONDS))


def _in_steps(by_minute: Minutes, step: timedelta, span: timedelta) -> Ended:
    last = floor(now(), step)
    starts = [last - step * number for number in reversed(range(span // step))]
    position = {start: index for index, start in enumerate(starts)}
    counts = {str(status): [0] * len(starts) for status in ENDINGS}
    for (minute, status), count in by_minute.items():
        if (index := position.get(floor(minute, step))) is not None:
            counts[status][index] += count
    return Ended(starts, counts)


def _by_model() -> list[ModelFigures]:
    lately = Task.objects.ended().filter(agent=settings.TASK_TYPE_NAME, ended_at__gte=now() - DAY)
    columns = ("model_name", "platform", "status", "running_time", "created_at", "started_at")
    groups = defaultdict(list)
    with database_errors():
        for row in lately.order_by("-ended_at").values_list(*columns, named=True)[:SAMPLE]:
            groups[row.model_name, row.platform].append(row)
    figures = [
        ModelFigures(
            *key,
            ended=len(rows),
            failed=sum(row.status == Task.Status.FAILED for row in rows),
            run_time=_percentiles(row.running_time for row in rows if row.running_time is not None),
            queue_time=_percentiles(
                (row.started_at - row.created_at).total_seconds() for row in rows if row.started_at
            ),
        )
        for key, rows in groups.items()
    ]
    return sorted(figures, key=lambda one: (-one.ended, one.model_name, one.platform))


def _percentiles(seconds: Iterable[float]) -> Percentiles:
    values = sorted(seconds)
    if len(values) < 2:  # too few for `quantiles`
        only = values[0] if values else None
        return Percentiles(only, only, only)
    cuts = quantiles(values, n=100, method="inclusive")
    return Percentiles(cuts[49], cuts[89], cuts[98])
