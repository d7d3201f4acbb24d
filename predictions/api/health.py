"""Liveness and readiness."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

from django.conf import settings
from django.db import connection
from django.http import HttpRequest, HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from predictions.queue import queue
from predictions.recorder import get_recorder
from predictions.redis.errors import QueueUnavailable
from predictions.server.draining import is_leaving

READY_SECONDS = 0.8


class LiveView(APIView):
    """`GET /live`: the process answers."""

    authentication_classes = []
    permission_classes = []

    def get(self, request: Request) -> Response:
        return Response({"message": "API OK"})


class ReadyView(APIView):
    """`GET /ready`: whether a prediction would be taken now, and what is in its way. Answers within a second.

    `?exclude=` leaves a check out, as Kubernetes' own `/readyz` has it; `exclude=queue` lets a full queue pass.
    """

    authentication_classes = []
    permission_classes = []

    def get(self, request: Request) -> Response:
        excluded = request.query_params.getlist("exclude")
        checks: dict[str, Callable[[], str]] = {
            "database": _database,
            "redis": _redis if "queue" in excluded else _redis_and_queue,
            "record_service": _record_service,
            "process": _process,
        }
        answers = _at_once({name: check for name, check in checks.items() if name not in excluded})
        ready = all(answer == "ok" for answer in answers.values())
        body = {"ready": ready, "checks": answers}
        if not ready:
            wrong = ", ".join(f"{name}: {answer}" for name, answer in answers.items() if answer != "ok")
            body |= {"error": f"not ready: {wrong}", "code": "unavailable"}
        return Response(body, status=200 if ready else 503)


class ProbeMiddleware:
    """Answers /live and /ready whatever host name they are asked under: probes use the address of the machine."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response
        self.probes = {"/live": LiveView.as_view(), "/ready": ReadyView.as_view()}

    def __call__(self, request: HttpRequest) -> HttpResponse:
        probe = self.probes.get(request.path)
        if probe is None:
            return self.get_response(request)
        answer: HttpResponse = probe(request).render()
        answer["Content-Length"] = str(len(answer.content))  # what adds it elsewhere comes after this one
        return answer


def _at_once(checks: dict[str, Callable[[], str]]) -> dict[str, str]:
    """Runs the checks side by side; one that hangs counts as failed and is left to end by itself."""
    pool = ThreadPoolExecutor(max_workers=len(checks) or 1)
    futures = {name: pool.submit(check) for name, check in checks.items()}
    wait(futures.values(), timeout=READY_SECONDS)
    pool.shutdown(wait=False, cancel_futures=True)
    return {name: future.result() if future.done() else "does not answer" for name, future in futures.items()}


def _database() -> str:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Exception:  # whatever is wrong with it
        return "does not answer"
    finally:
        connection.close()
    return "ok"


def _redis() -> str:
    try:
        queue.ping()
    except QueueUnavailable:
        return "does not answer"
    return "ok"


def _redis_and_queue() -> str:
    try:
        size = queue.sizes().waiting
    except QueueUnavailable:
        return "does not answer"
    return "ok" if size < settings.MAX_QUEUE_SIZE else "queue full"


def _process() -> str:
    return "shutting down" if is_leaving() else "ok"


def _record_service() -> str:
    return "ok" if get_recorder().is_ready() else "does not answer"
