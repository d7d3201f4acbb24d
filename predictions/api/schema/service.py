"""What the document says of the queue, of the agent's health, and of itself."""

from typing import Any

from django.conf import settings
from drf_spectacular.utils import OpenApiExample
from rest_framework import serializers

from predictions.api import openapi
from predictions.api.health import LiveView, ReadyView
from predictions.api.home import HomeView
from predictions.api.metrics import MetricsView
from predictions.api.openapi import (
    ANYBODY,
    CALLERS,
    COUNT,
    OPERATORS,
    SCRAPERS,
    UNAVAILABLE,
    answer,
    describe,
    operation,
)
from predictions.api.queue import DeletePendingView, PauseView, QueueSizeView, UnfinishedView, UnpauseView
from predictions.api.reference import DocsPageView, OpenAPIView


class QueueSize(serializers.Serializer[Any]):
    queue_size = serializers.IntegerField(min_value=0)


class Paused(serializers.Serializer[Any]):
    paused = serializers.BooleanField()


class Deleted(serializers.Serializer[Any]):
    num_of_pending_tasks = serializers.IntegerField(min_value=0, help_text="How many waited.")
    num_of_deleted_tasks = serializers.IntegerField(min_value=0, help_text="How many of them are canceled now.")


class Home(serializers.Serializer[Any]):
    name = serializers.CharField()
    version = serializers.CharField()


class Live(serializers.Serializer[Any]):
    message = serializers.CharField()


UNFINISHED = {
    "type": "object",
    "properties": {"num of unfinished tasks": COUNT, "unfinished": COUNT},
    "required": ["num of unfinished tasks", "unfinished"],
}
CHECKS = ("database", "redis", "record_service", "process")
READY = {
    "type": "object",
    "properties": {
        "ready": {"type": "boolean"},
        "checks": {
            "type": "object",
            "properties": {name: {"type": "string"} for name in CHECKS},
            "required": list(CHECKS),
        },
    },
    "required": ["ready", "checks"],
}
NOT_READY = {
    **READY,
    "properties": {**READY["properties"], "error": {"type": "string"}, "code": {"const": "unavailable"}},  # type: ignore[dict-item]
    "required": ["ready", "checks", "error", "code"],
}

describe(
    QueueSizeView,
    get=operation(
        "getQueueSize",
        tag="Queue",
        who=CALLERS,
        summary="How many tasks wait",
        answers={
            200: answer(QueueSize, "Scheduled, queued and retrying tasks.", OpenApiExample("0", {"queue_size": 0}))
        },
        errors=[openapi.NO_QUEUE],
    ),
)
describe(
    UnfinishedView,
    get=operation(
        "getUnfinished",
        tag="Queue",
        who=CALLERS,
        summary="How many tasks have not ended",
        answers={
            200: answer(
                UNFINISHED,
                "Those that wait and those that run; the same number under both names.",
                OpenApiExample("None", {"num of unfinished tasks": 0, "unfinished": 0}),
            )
        },
        errors=[openapi.NO_QUEUE],
    ),
)
describe(
    PauseView,
    post=operation(
        "pause",
        tag="Queue",
        who=OPERATORS,
        summary="Hand no more tasks to workers",
        description="Submissions are still accepted, and what runs goes on.",
        answers={200: answer(Paused, "The queue is paused.", OpenApiExample("Paused", {"paused": True}))},
        errors=[openapi.NO_QUEUE],
    ),
)
describe(
    UnpauseView,
    post=operation(
        "unpause",
        tag="Queue",
        who=OPERATORS,
        summary="Go on handing tasks to workers",
        answers={200: answer(Paused, "The queue is not paused.", OpenApiExample("Not paused", {"paused": False}))},
        errors=[openapi.NO_QUEUE],
    ),
)
describe(
    DeletePendingView,
    post=operation(
        "deletePending",
        tag="Queue",
        who=OPERATORS,
        summary="Cancel every task that waits",
        answers={
            200: answer(
                Deleted,
                "A task that a worker took at the same moment runs on.",
                OpenApiExample("One waited", {"num_of_pending_tasks": 1, "num_of_deleted_tasks": 1}),
            )
        },
        errors=UNAVAILABLE,
    ),
)

ALL_WELL = {"ready": True, "checks": dict.fromkeys(CHECKS, "ok")}
FULL = {
    "ready": False,
    "checks": {**dict.fromkeys(CHECKS, "ok"), "redis": "queue full"},
    "error": "not ready: redis: queue full",
    "code": "unavailable",
}
describe(
    HomeView,
    get=operation(
        "home",
        tag="Health",
        who=ANYBODY,
        summary="The agent's name and version",
        answers={
            200: answer(
                Home,
                "All callers get the same answer.",
                OpenApiExample("Home", {"name": "serving-agent", "version": settings.VERSION}),
            )
        },
    ),
)
describe(
    LiveView,
    get=operation(
        "live",
        tag="Health",
        who=ANYBODY,
        summary="Whether the process answers",
        answers={200: answer(Live, "It does.", OpenApiExample("It does", {"message": "API OK"}))},
    ),
)
describe(
    ReadyView,
    get=operation(
        "ready",
        tag="Health",
        who=ANYBODY,
        summary="Whether a prediction would be taken now",
        description="Answered within a second, whatever hangs.",
        answers={
            200: answer(READY, "It would.", OpenApiExample("All is well", ALL_WELL)),
            503: answer(NOT_READY, "It would not: `checks` says what is wrong.", OpenApiExample("unavailable", FULL)),
        },
    ),
)
describe(
    MetricsView,
    get=operation(
        "getMetrics",
        tag="Health",
        who=SCRAPERS,
        summary="Metrics for Prometheus",
        answers={(200, "text/plain"): answer({"type": "string"}, "Prometheus' text format.")},
    ),
)
describe(
    OpenAPIView,
    get=operation(
        "getOpenAPI",
        tag="Documentation",
        who=ANYBODY,
        summary="This document",
        answers={200: answer({"type": "object", "required": ["openapi", "info", "paths"]}, "OpenAPI 3.1.")},
        errors=[openapi.NOT_SERVED],
    ),
)
describe(
    DocsPageView,
    get=operation(
        "getDocsPage",
        tag="Documentation",
        who=ANYBODY,
        summary="This document as a page",
        answers={(200, "text/html"): answer({"type": "string"}, "Swagger UI, served from here alone.")},
        errors=[openapi.NOT_SERVED],
    ),
)
