"""The task list's queries: each page, filter and date reads only a part of an index.

With a million tasks a count, a part of a word, a list of the values there are, or another order would read them all.
"""

from collections.abc import Iterator
from functools import reduce
from operator import or_
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.contrib.filters.admin.mixins import ValueMixin
from unfold.contrib.filters.forms import DropdownForm, SearchForm
from unfold.paginator import InfinitePaginator
from unfold.views import ChangeList

from predictions.models import Task, led_by, whole

PAGES = 100
SEARCHED = ("user_id", "model_name", "request_id")


def search(tasks: QuerySet[Task], term: str) -> QuerySet[Task]:
    """Those of a user, a model or a request, or whose id begins so: of whichever the term is known as.

    It looks each one up in its own index first, because no index covers all of them.
    """
    begins, ids = Q(pk__startswith=term), Task.objects.values("pk")
    found = [begins] if ids.filter(begins).order_by()[:1] else []
    known = [name for name in SEARCHED if ids.filter(whole(name, term)).order_by(name)[:1]]
    found += [whole(name, term) for name in known]
    if not found:
        return tasks.none()
    if len(found) == len(known) == 1:
        tasks = tasks.order_by(*led_by(known, map(str, tasks.query.order_by)))
    return tasks.filter(reduce(or_, found))


class NewestPaginator(InfinitePaginator):
    """The first PAGES pages, because the database reads all rows before a page. Dates lead to older tasks."""

    template_name = "admin/agent/pagination.html"

    @property
    def count(self) -> int:
        return int(self.per_page) * PAGES


class TaskList(ChangeList):
    """Newest first, or oldest first: no other order has an index, whatever stands in the address."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.full_result_count = self.result_count  # there is no total, so the heading shows none

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Task]) -> list[str]:
        filtered = {spec.field_path for spec in self.filter_specs if isinstance(spec, ValueMixin) and spec.value()}
        return led_by(filtered, super().get_ordering(request, queryset))

    def get_ordering_field(self, field_name: Any) -> str | None:
        return super().get_ordering_field(field_name) if field_name in self.sortable_by else None


class ExactFilter(ValueMixin, admin.FieldListFilter):
    """A whole value, typed in."""

    template = "unfold/filters/filters_field.html"
    form_class = SearchForm

    def __init__(self, field: Any, request: HttpRequest, params: dict[str, Any], *more: Any, **named: Any) -> None:
        self.lookup_val = params.get(field.name)
        super().__init__(field, request, params, *more, **named)

    def expected_parameters(self) -> list[str | None]:
        return [self.field_path]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Task]) -> QuerySet[Task] | None:
        value = self.value()
        return queryset.filter(whole(self.field_path, value)) if value else queryset

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        data = {self.field_path: self.value()}
        yield {"form": self.form_class(label=f"By {self.title}", name=self.field_path, data=data, **self.offered())}

    def offered(self) -> dict[str, Any]:
        """Further arguments of the form."""
        return {}


class StatusFilter(ChoicesDropdownFilter):
    def queryset(self, request: HttpRequest, queryset: QuerySet[Task]) -> QuerySet[Task] | None:
        value = self.value()
        return queryset.filter(whole(self.field_path, value)) if value else queryset


class PlatformFilter(ExactFilter):
    """One of the platforms there are."""

    form_class = DropdownForm

    def offered(self) -> dict[str, Any]:
        return {"choices": [("", "All"), *((name, name) for name in settings.PLATFORMS)]}
