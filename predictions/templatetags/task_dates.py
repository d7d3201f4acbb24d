"""The dates above the task list: years, then months, then days, from the oldest task to the newest.

Django's own asks the table which of them there are, and reads it whole for that. This looks at the two ends of an
index, and offers every date between them.
"""

from datetime import date, timedelta
from typing import Any

from django import template
from django.db.models import Max, Min
from django.utils.formats import date_format
from django.utils.timezone import localdate

from predictions.models import Task

register = template.Library()

FIELD = "created_at__"
PARTS = ("year", "month", "day")
FORMATS = {1: "Y", 2: "YEAR_MONTH_FORMAT", 3: "MONTH_DAY_FORMAT"}
Chosen = tuple[int, ...]
"""A year; a year and a month; or a whole date."""


@register.inclusion_tag("admin/date_hierarchy.html")
def task_dates(changelist: Any) -> dict[str, Any]:
    given = [changelist.params.get(FIELD + part) for part in PARTS]
    chosen = tuple(int(value) for value in given[: (*given, None).index(None)])
    ends = Task.objects.aggregate(first=Min("created_at"), last=Max("created_at"))
    if ends["first"] is None:
        return {"show": False}
    choices = finer(chosen, localdate(ends["first"]), localdate(ends["last"])) if len(chosen) < len(PARTS) else [chosen]
    return {
        "show": True,
        "back": _link(changelist, chosen[:-1]) if chosen else None,
        "choices": [_link(changelist, choice) if choice != chosen else {"title": _title(choice)} for choice in choices],
    }


def finer(chosen: Chosen, first: date, last: date) -> list[Chosen]:
    """The dates within `chosen` from `first` to `last`: of the next level on which there is a choice, at last days."""
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    within: list[Chosen] = [parts for day in days if (parts := (day.year, day.month, day.day))[: len(chosen)] == chosen]
    for level in range(len(chosen) + 1, len(PARTS)):
        choices = list(dict.fromkeys(parts[:level] for parts in within))
        if len(choices) > 1:
            return choices
    return within


def _link(changelist: Any, choice: Chosen) -> dict[str, str]:
    params = {FIELD + part: value for part, value in zip(PARTS, choice, strict=False)}
    return {"link": changelist.get_query_string(params, [FIELD]), "title": _title(choice)}


def _title(choice: Chosen) -> str:
    if not choice:
        return "All dates"
    return date_format(date(*(*choice, 1, 1)[: len(PARTS)]), FORMATS[len(choice)])
