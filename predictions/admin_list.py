"""What the task list asks of the database: each page, filter and date reads a stretch of an index, and no more.

With a million tasks a count, a part of a word, a list of the values there are, or another order would read them all.
"""

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.contrib.filters.admin.mixins import ValueMixin
from unfold.contrib.filters.forms import DropdownForm, SearchForm
from unfold.paginator import InfinitePaginator
from unfold.views import ChangeList

from predictions.models import Task

PAGES = 100


class NewestPaginator(InfinitePaginator):
    """The first PAGES pages: the database reads all that lies before a page. What is older is found by its date."""

    template_name = "admin/agent/pagination.html"

    @property
    def count(self) -> int:
        return int(self.per_page) * PAGES


class TaskList(ChangeList):
    """Newest first, or oldest first: no other order has an index, whatever stands in the address."""

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
        return super().queryset(request, queryset) if self.value() else queryset

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        data = {self.field_path: self.value()}
        yield {"form": self.form_class(label=f"By {self.title}", name=self.field_path, data=data, **self.offered())}

    def offered(self) -> dict[str, Any]:
        """What the form is told besides."""
        return {}


class PlatformFilter(ExactFilter):
    """One of the platforms there are."""

    form_class = DropdownForm

    def offered(self) -> dict[str, Any]:
        return {"choices": [("", "All"), *((name, name) for name in settings.PLATFORMS)]}
