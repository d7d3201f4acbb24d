"""The admin's home page: figures of queue, workers and tasks, which refresh themselves, and the queue's actions."""

import json
from contextlib import suppress
from typing import Any, cast

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.options import get_content_type_for_model
from django.core.cache import cache
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import render
from django.urls import path, reverse
from django.views.decorators.http import require_GET, require_POST

from predictions import submission
from predictions.models import Task
from predictions.operations import diagnosis, statistics
from predictions.queue import queue
from predictions.queue.overview import overview
from predictions.recorder import RecordUnavailable
from predictions.redis.errors import QueueUnavailable

HEALTH = "health"
HEALTH_SECONDS = 20
HEALTH_DEADLINE_SECONDS = 5.0
MAY_OPERATE = "predictions.cancel_task"
COLOURS = {
    Task.Status.SUCCEEDED: "var(--color-green-600)",
    Task.Status.FAILED: "var(--color-red-600)",
    Task.Status.CANCELED: "var(--color-orange-400)",
}
CHART_OPTIONS = json.dumps(
    {
        "animation": False,
        "maintainAspectRatio": False,
        "plugins": {"legend": {"display": True, "position": "bottom"}},
        "scales": {
            "x": {"stacked": True, "ticks": {"maxTicksLimit": 12}},
            "y": {"stacked": True, "beginAtZero": True, "ticks": {"precision": 0}},
        },
    }
)


def context(request: HttpRequest, given: dict[str, Any]) -> dict[str, Any]:
    """Unfold's DASHBOARD_CALLBACK: what templates/admin/index.html shows."""
    return {**given, **_numbers(request), "title": "Dashboard", "charts": _charts(), "chart_options": CHART_OPTIONS}


@require_GET
def numbers(request: HttpRequest) -> HttpResponse:
    """The part of the page that refreshes every few seconds."""
    return render(request, "admin/agent/numbers.html", _numbers(request))


@require_GET
def charts(request: HttpRequest) -> JsonResponse:
    """The charts' data, by the id of their part of the page."""
    return JsonResponse(_charts(), json_dumps_params={"separators": (",", ":")})


@require_GET
def health(request: HttpRequest) -> HttpResponse:
    """What `manage.py doctor` says; looked at once for all who ask within HEALTH_SECONDS, and not on the page's way."""
    checks = diagnosis.checks()
    findings = cache.get_or_set(
        HEALTH, lambda: list(diagnosis.diagnose(checks, deadline_seconds=HEALTH_DEADLINE_SECONDS)), HEALTH_SECONDS
    )
    return render(request, "admin/agent/health.html", {"findings": findings})


@require_POST
def operate(request: HttpRequest, act: str) -> HttpResponse:
    """Pauses or resumes the queue, or cancels waiting tasks, and writes it to the admin's history."""
    if not request.user.has_perm(MAY_OPERATE):
        raise PermissionDenied
    try:
        match act:
            case "pause":
                queue.pause(str(request.user))
                done = "Paused the queue: workers get no more tasks, and the agent still accepts submissions."
            case "resume":
                queue.resume()
                done = "Resumed the queue."
            case "delete-waiting":
                waiting, canceled = submission.cancel_pending()
                done = f"Canceled {canceled} of {waiting} waiting tasks."
            case _:
                raise Http404
    except QueueUnavailable:
        messages.error(request, "Redis does not answer, so nothing was changed.")
    except RecordUnavailable:
        messages.error(request, "The database does not answer: some waiting tasks may not have been canceled.")
    else:
        messages.success(request, done)
        LogEntry.objects.create(
            user_id=cast(int, request.user.pk),
            content_type=get_content_type_for_model(Task),
            object_id="",
            object_repr=f"Queue {settings.TASK_TYPE_NAME}",
            action_flag=CHANGE,
            change_message=done,
        )
    return HttpResponseRedirect(reverse("admin:index"))


def _numbers(request: HttpRequest) -> dict[str, Any]:
    """The page's figures. A figure is None while Redis or the database does not answer."""
    told: dict[str, Any] = {
        "queue": None,
        "tasks": None,
        "bound": settings.MAX_QUEUE_SIZE,
        "queue_name": settings.TASK_TYPE_NAME,
        "may_operate": request.user.has_perm(MAY_OPERATE),
        "models_title": f"Models (the latest {statistics.SAMPLE:,} tasks of a day)",
    }
    with suppress(QueueUnavailable):
        told["queue"] = overview()
        told["full_percent"] = min(100, round(100 * told["queue"].waiting / settings.MAX_QUEUE_SIZE))
    with suppress(RecordUnavailable):
        hour, day = statistics.ended_lately()
        told |= {"tasks": statistics.unfinished(), "hour": hour, "day": day, "models": statistics.by_model()}
    return told


def _charts() -> dict[str, Any]:
    try:
        hour, day = statistics.ended_lately()
    except RecordUnavailable:
        return {}
    return {"hour": _bars(hour, "%H:%M"), "day": _bars(day, "%H:00")}


def _bars(ended: statistics.Ended, label: str) -> dict[str, Any]:
    return {
        "labels": [start.strftime(label) for start in ended.starts],
        "datasets": [
            {
                "label": str(status.label),
                "data": ended.counts[status],
                "backgroundColor": COLOURS[status],
                "maxBarThickness": 18,
            }
            for status in statistics.ENDINGS
        ],
    }


urlpatterns = [
    path("agent/numbers", admin.site.admin_view(numbers), name="agent-numbers"),
    path("agent/charts", admin.site.admin_view(charts), name="agent-charts"),
    path("agent/health", admin.site.admin_view(health), name="agent-health"),
    path("agent/queue/<str:act>", admin.site.admin_view(operate), name="agent-operate"),
]
