"""The table that maps exceptions to answers."""

import logging
import sys
from typing import Any

from django.core.exceptions import BadRequest, DisallowedHost, PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import set_rollback

from platforms import InvalidInputs, PlatformError, PlatformTimeout, Unsupported
from predictions.api.requests import error_response
from predictions.execution.runner import TaskCanceled
from predictions.lifecycle import InvalidTransition
from predictions.queue.queue import QueueFull
from predictions.recorder import RecordRefused, RecordUnavailable
from predictions.redis.errors import QueueUnavailable
from predictions.submission import AlreadyFinished, NotOurs, TaskNotFound

logger = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 5
CHALLENGE = 'Bearer realm="serving agent"'
INTERNAL_ERROR = "internal error: it is in the agent's log under this request's id"
NO_ROUTE = "there is no such route"
NOT_ALLOWED = "this is not allowed"

# Exception → status, code and sentence. The first match counts. None: the exception's own text.
TABLE: list[tuple[type[Exception], int, str, str | None]] = [
    (InvalidInputs, 400, "invalid_inputs", None),
    (Unsupported, 400, "unsupported", None),
    (PlatformTimeout, 504, "platform_timeout", None),
    (PlatformError, 502, "platform_error", None),
    (QueueFull, 429, "queue_full", "the queue is full: try again later"),
    (QueueUnavailable, 503, "unavailable", "the task queue is not available: try again later"),
    (RecordUnavailable, 503, "unavailable", "the task could not be recorded: try again later"),
    (OperationalError, 503, "unavailable", "the database is not available: try again later"),
    (InterfaceError, 503, "unavailable", "the database is not available: try again later"),
    (RecordRefused, 503, "unavailable", "the record service refused the task"),
    (TaskNotFound, 404, "not_found", "there is no task with this id"),
    (AlreadyFinished, 409, "already_finished", None),
    (NotOurs, 409, "not_ours", "this task runs on another agent: cancel it there"),
    (TaskCanceled, 409, "canceled", None),
    (InvalidTransition, 409, "invalid_transition", "the task's status does not allow this change"),
    (RequestDataTooBig, 413, "body_too_large", "the request body is larger than MAX_REQUEST_BODY allows"),
    (BadRequest, 400, "invalid_request", None),
    (SuspiciousOperation, 400, "invalid_request", "the request is malformed"),
    (
        exceptions.UnsupportedMediaType,
        415,
        "unsupported_media_type",
        "send the body with the header 'Content-Type: application/json', or files as multipart/form-data",
    ),
    (exceptions.NotAuthenticated, 401, "unauthorized", None),
    (exceptions.AuthenticationFailed, 401, "unauthorized", None),
    (exceptions.PermissionDenied, 403, "forbidden", None),
    (PermissionDenied, 403, "forbidden", NOT_ALLOWED),
    (exceptions.NotFound, 404, "not_found", NO_ROUTE),
    (Http404, 404, "not_found", NO_ROUTE),
    (exceptions.MethodNotAllowed, 405, "method_not_allowed", None),
    (exceptions.ValidationError, 400, "invalid_request", None),
    (exceptions.ParseError, 400, "invalid_request", None),
    (exceptions.APIException, 0, "", None),
]


def answer(error: Exception, context: dict[str, Any]) -> Response:
    """DRF's exception handler."""
    set_rollback()
    status, body = describe(error)
    if task_id := getattr(context["view"], "task_id", ""):
        body["task_id"] = task_id
    response = Response(body, status=status)
    if status == 401:
        response["WWW-Authenticate"] = CHALLENGE
    if status == 405:
        response["Allow"] = ", ".join(context["view"].allowed_methods)
    if status == 429:
        response["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return response


def describe(error: Exception) -> tuple[int, dict[str, Any]]:
    """Looks up the status and body of an exception's answer, and logs statuses from 500."""
    status, body = look_up(error)
    if status == 500:
        logger.error("internal error", exc_info=error)
    elif status > 500:
        logger.warning("answered %d %s: %s", status, body["code"], error.__cause__ or error)
    return status, body


def look_up(error: Exception) -> tuple[int, dict[str, Any]]:
    """The status and body of an exception's answer. An exception without a row is a 500."""
    row = next((row for row in TABLE if isinstance(error, row[0])), None)
    if row is None:
        return 500, {"error": INTERNAL_ERROR, "code": "internal_error"}
    _, status, code, sentence = row
    if isinstance(error, exceptions.APIException) and not status:
        status, code = error.status_code, error.default_code
    body: dict[str, Any] = {"error": sentence or str(getattr(error, "detail", error)), "code": code}
    if isinstance(error, exceptions.ValidationError):
        body |= _field(error)
    if isinstance(error, AlreadyFinished):
        body["status"] = error.status
    return status, body


def _field(error: exceptions.ValidationError) -> dict[str, str]:
    """The name of the first invalid field, and its problem."""
    detail: Any = error.detail
    name = ""
    while isinstance(detail, dict) and detail:
        key, detail = next(iter(detail.items()))
        name = f"{name}.{key}" if name else str(key)
    while isinstance(detail, list) and detail:
        detail = detail[0]
    if not name or name == "non_field_errors":
        return {"error": str(detail)}
    return {"error": f"{name}: {detail}", "field": name}


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """Django's handler400."""
    if isinstance(exception, DisallowedHost):
        logger.info("refused a Host: %s", exception)
        return error_response(400, "invalid_request", "the Host header names no host of this service")
    return error_response(400, "invalid_request", "the request is malformed")


def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """Django's handler403."""
    return error_response(403, "forbidden", NOT_ALLOWED)


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """Django's handler404."""
    return error_response(404, "not_found", NO_ROUTE)


def server_error(request: HttpRequest) -> HttpResponse:
    """Django's handler500, for views outside the API: the admin while the database is unavailable."""
    status, body = describe(sys.exc_info()[1] or Exception("unknown"))  # type: ignore[arg-type]
    return JsonResponse(body, status=status)
