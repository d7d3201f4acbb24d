"""Counts of the tasks that ended in each minute, so that a chart of a day reads no tasks."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Case, Count, F, Max, QuerySet, Sum, When
from django.db.models.functions import TruncHour, TruncMinute
from django.utils.timezone import now

from predictions.database.errors import database_errors
from predictions.models import EndedCount, Task

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
SETTLED = timedelta(minutes=2)
"""A minute is over when it is so long ago: clocks differ, and commits wait."""

Minutes = dict[tuple[datetime, str], int]
"""(when the minute or hour began, status) → how many tasks ended so."""


def count_ended() -> int:
    """Counts the tasks of whole minutes, an hour at a time, and deletes counts that no figure needs any more.

    Safe at any time, also twice at once. Answers how many counts are new. Raises RecordUnavailable.
    """
    since, until = _first_hour(), floor(now() - SETTLED, MINUTE)
    with database_errors():
        latest = _counts().aggregate(latest=Max("minute"))["latest"]
        since = _after(latest, since)
        added = 0
        while since < until:
            upto = min(since + HOUR, until)
            counts = [
                EndedCount(agent=settings.TASK_TYPE_NAME, minute=minute, status=status, count=count)
                for (minute, status), count in _counted(since, upto).items()
            ]
            EndedCount.objects.bulk_create(counts, ignore_conflicts=True)
            added += len(counts)
            since = upto
        _counts().filter(minute__lt=_first_hour() - DAY).delete()
    return added


def by_minute() -> Minutes:
    """What ended in the last day: by minutes in the last hour, and by hours before it. Raises RecordUnavailable.

    Two queries: for the minutes that are counted, and for the tasks that ended since.
    """
    first = _first_hour()
    is_of_the_last_hour = When(minute__gte=floor(now(), MINUTE) - HOUR, then=F("minute"))
    starts = _counts().filter(minute__gte=first).annotate(start=Case(is_of_the_last_hour, default=TruncHour("minute")))
    with database_errors():
        rows = list(starts.values_list("start", "status").annotate(n=Sum("count"), latest=Max("minute")).order_by())
        since = _after(max((latest for *_, latest in rows), default=None), first)
        return {(start, status): count for start, status, count, _ in rows} | _counted(since, None)


def _counted(since: datetime, until: datetime | None) -> Minutes:
    ended = Task.objects.ended().filter(agent=settings.TASK_TYPE_NAME, ended_at__gte=since)
    if until is not None:
        ended = ended.filter(ended_at__lt=until)
    rows = ended.annotate(minute=TruncMinute("ended_at")).values_list("minute", "status").annotate(n=Count("pk"))
    return {(minute, status): count for minute, status, count in rows.order_by()}


def _counts() -> QuerySet[EndedCount]:
    return EndedCount.objects.filter(agent=settings.TASK_TYPE_NAME)


def _first_hour() -> datetime:
    """When the first of the hours began that the dashboard shows."""
    return floor(now() - DAY, HOUR) + HOUR


def _after(latest: datetime | None, at_least: datetime) -> datetime:
    return at_least if latest is None else max(latest + MINUTE, at_least)


def floor(moment: datetime, step: timedelta) -> datetime:
    return moment - timedelta(seconds=moment.timestamp() % step.total_seconds())
