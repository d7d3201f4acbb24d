"""django-rq's pages in the admin, for those who may see and cancel tasks."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import URLPattern
from django_rq.admin import QueueAdmin
from django_rq.models import Dashboard
from rest_framework.permissions import SAFE_METHODS

from predictions.admin.permissions import ReadOnly

MAY_LOOK, MAY_ACT = "predictions.view_task", "predictions.cancel_task"
WITHOUT_SIGNING_IN = ("django_rq_home_json", "django_rq_metrics")

admin.site.unregister(Dashboard)


@admin.register(Dashboard)
class QueuesAdmin(ReadOnly, QueueAdmin):
    """django-rq lets any staff user empty a queue, and fails on a queue's number that there is not."""

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.has_perm(MAY_LOOK))

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def get_urls(self) -> list[URLPattern]:
        patterns: list[URLPattern] = super().get_urls()
        for pattern in patterns:
            guarded = _guarded(pattern.callback)
            pattern.callback = self.admin_site.admin_view(guarded) if pattern.name in WITHOUT_SIGNING_IN else guarded
        return patterns


def _guarded(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        user: Any = request.user
        if not (user.is_active and user.is_staff):
            return view(request, *args, **kwargs)  # which sends them to sign in
        if not user.has_perm(MAY_LOOK if request.method in SAFE_METHODS else MAY_ACT):
            raise PermissionDenied
        numbers = (kwargs.get(name, 0) for name in ("queue_index", "scheduler_index", "connection_index"))
        if any(number >= len(settings.RQ_QUEUES) for number in numbers):
            raise Http404
        return view(request, *args, **kwargs)

    return guarded
