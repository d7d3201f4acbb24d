"""The admin's "Try it" page: the prediction API for staff who are signed in, and a page that uses it."""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.http import require_GET
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from platforms import Call, PlatformError, get_platform
from predictions import submission
from predictions.api.authentication import StaffSession
from predictions.api.predictions import AsyncPredictView, PredictView
from predictions.api.streaming import GenerateView
from predictions.api.tasks import CancelView, TaskView
from predictions.operations import statistics
from predictions.recorder import RecordUnavailable

MAY_RUN = "predictions.run_task"


class MayRun(BasePermission):
    """Staff with the permission to run predictions from the admin."""

    message = "you may not run predictions from the admin"

    def has_permission(self, request: Request, view: APIView) -> bool:
        user = request.user
        return bool(user and user.is_active and user.is_staff and user.has_perm(MAY_RUN))


def for_staff(view: type[APIView]) -> Callable[..., Any]:
    """One of the API's own views, for a session of the admin; unsafe requests need its CSRF token."""
    return view.as_view(authentication_classes=[StaffSession], permission_classes=[MayRun], schema=None)


@require_GET
def page(request: HttpRequest) -> HttpResponse:
    """The form; `?task=…` fills in the model and inputs of an earlier task."""
    asked = None
    if task_id := request.GET.get("task"):
        with suppress(submission.TaskNotFound, RecordUnavailable):
            asked = submission.get(task_id)
    examples = _examples()
    models = set(examples)
    with suppress(RecordUnavailable):
        models |= {one.model_name for one in statistics.by_model()}
    first = next(iter(examples), "")
    return render(
        request,
        "admin/agent/try.html",
        {
            **admin.site.each_context(request),
            "title": "Try it",
            "may_run": request.user.has_perm(MAY_RUN),
            "models": sorted(models),
            "examples": json.dumps(examples, ensure_ascii=False),
            "model_name": asked.model_name if asked else first or settings.MODEL_NAME,
            "model_version": asked.model_version if asked else "",
            "inputs": json.dumps(asked.inputs if asked else examples.get(first, {}), indent=2, ensure_ascii=False),
            "platform": settings.ML_PLATFORM,
        },
    )


def _examples() -> dict[str, Any]:
    """Example inputs of each model that the platform knows: the defaults in its input documentation."""
    platform = get_platform(settings.ML_PLATFORM, settings.PLATFORMS)
    examples = {}
    for model_name in platform.models():
        with suppress(PlatformError, AttributeError, TypeError):  # a user's own docs() may return anything
            described = platform.docs(model_name, Call(timeout_seconds=1))
            examples[model_name] = {name: about["default"] for name, about in described.items() if "default" in about}
    return examples


urlpatterns = [
    path("agent/try", admin.site.admin_view(page), name="agent-try"),
    path("agent/try/v1/predict", for_staff(PredictView), name="agent-try-predict"),
    path("agent/try/async/v1/predict", for_staff(AsyncPredictView), name="agent-try-async"),
    path("agent/try/v1/generate", for_staff(GenerateView), name="agent-try-generate"),
    path("agent/try/task/<str:task_id>", for_staff(TaskView), name="agent-try-task"),
    path("agent/try/cancel/<str:task_id>", for_staff(CancelView), name="agent-try-cancel"),
]
