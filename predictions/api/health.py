"""Liveness and readiness."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any

from django.conf import settings
from django.db import connection
from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import OpenApiExample, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from predictions.queue import queue
from predictions.recorder import get_recorder
from predictions.redis.errors import QueueUnavailable
from predictions.server.draining import leaving

READY_SECONDS = 0.8


class ReadySerializer(serializers.Serializer[Any]):
    """Each check is `ok` or a problem."""

    ready = serializers.BooleanField()
    checks = serializers.DictField(child=serializers.CharField())


class NotReadySerializer(ReadySerializer):
    """The error names the checks that failed."""

    error = serializers.CharField()
    code = serializers.CharField()


ALL_OK = dict.fromkeys(("database", "redis", "record_service", "process"), "ok")
FULL = {"checks": ALL_OK | {"redis": "queue full"}, "error": "not ready: redis: queue full", "code": "unavailable"}


class LiveView(APIView):
    """Tell that the process answers."""

    authentication_classes = []
    permission_classes = []

    @extend_schema(
        "live",
        responses={200: inline_serializer("Live", {"message": serializers.CharField()})},
        examples=[OpenApiExample("Live", {"message": "API OK"})],
    )
    def get(self, request: Request) -> Response:
        return Response({"message": "API OK"})


class ReadyView(APIView):
    """Tell whether the agent accepts predictions now.

    Answers within a second, even if a service hangs. `?exclude=redis` leaves a check out, as in Kubernetes' own
    `/readyz`. `?exclude=queue` lets a full queue pass.
    """

    authentication_classes = []
    permission_classes = []

    @extend_schema(
        "ready",
        responses={200: ReadySerializer, 503: NotReadySerializer},
        examples=[
            OpenApiExample("Ready", {"ready": True, "checks": ALL_OK}),
            OpenApiExample("Queue full", {"ready": False, **FULL}, status_codes=[503]),
        ],
    )
    def get(self, request: Request) -> Response:
        excluded = request.query_params.getlist("exclude")
        checks: dict[str, Callable[[], str]] = {
            "database": _database,
            "redis": partial(_redis, full_is_ok="queue" in excluded),
            "record_service": lambda: "ok" if get_recorder().is_ready() else "does not answer",
            "process": lambda: "shutting down" if leaving.is_set() else "ok",
        }
        answers = _run_together({name: check for name, check in checks.items() if name not in excluded})
        problems = ", ".join(f"{name}: {answer}" for name, answer in answers.items() if answer != "ok")
        if problems:
            error = f"not ready: {problems}"
            return Response({"ready": False, "checks": answers, "error": error, "code": "unavailable"}, status=503)
        return Response({"ready": True, "checks": answers})


class ProbeMiddleware:
    """Answers /live and /ready under any host name, because probes use the machine's address."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response
        self.probes = {"/live": LiveView.as_view(), "/ready": ReadyView.as_view()}

    def __call__(self, request: HttpRequest) -> HttpResponse:
        probe = self.probes.get(request.path)
        if probe is None:
            return self.get_response(request)
        answer: HttpResponse = probe(request).render()
        answer["Content-Length"] = str(len(answer.content))  # CommonMiddleware stands after this one
        return answer


def _run_together(checks: dict[str, Callable[[], str]]) -> dict[str, str]:
    """Runs the checks in threads. A check that hangs fails, and its thread ends later."""
    pool = ThreadPoolExecutor(max_workers=len(checks) or 1)
    futures = {name: pool.submit(check) for name, check in checks.items()}
    wait(futures.values(), timeout=READY_SECONDS)
    pool.shutdown(wait=False, cancel_futures=True)
    return {name: future.result() if future.done() else "does not answer" for name, future in futures.items()}


def _database() -> str:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Exception:
        return "does not answer"
    finally:
        connection.close()
    return "ok"


def _redis(*, full_is_ok: bool) -> str:
    try:
        is_full = queue.sizes().waiting >= settings.MAX_QUEUE_SIZE
    except QueueUnavailable:
        return "does not answer"
    return "queue full" if is_full and not full_is_ok else "ok"
