"""What every request goes through: its id, the limit on its body, and strict JSON in and out."""

import io
import json
import logging
import math
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import IO, TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from gunicorn.http.errors import ParseException
from rest_framework.exceptions import APIException, ParseError
from rest_framework.metadata import BaseMetadata
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from predictions import tracing
from predictions.api.draining import NEW_PREDICTIONS, is_refusing
from predictions.context import working_on
from predictions.counters import request_answered
from predictions.lifecycle import release_connection

if TYPE_CHECKING:
    from rest_framework.views import APIView

logger = logging.getLogger("requests")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:@=+/-]{1,128}")
_QUIET = ("/live", "/ready", "/metrics", "/static/")


class BodyTooLarge(APIException):
    status_code = 413
    default_code = "body_too_large"
    default_detail = "the request body is larger than MAX_REQUEST_BODY allows"


class RequestMiddleware:
    """Gives the request an id (its own `X-Request-ID`, or a new one), hands it back, and logs the answer."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        given = request.headers.get("X-Request-ID", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        started = time.monotonic()
        is_quiet = request.path.startswith(_QUIET)
        trace = nullcontext(tracing.Part("")) if is_quiet else tracing.answering(request.headers.get("traceparent", ""))
        with working_on(request_id=request_id), trace as part:
            response = _refusal(request) or _malformed(request) or _unchunk(request) or self.get_response(request)
            seconds = time.monotonic() - started
            response["X-Request-ID"] = request_id
            route = _route(request)
            request_answered(route, response.status_code, seconds)
            part.answered(request.method or "", route, response.status_code)
            if not response.streaming:
                release_connection()  # a caller who reads slowly must not hold it
            if not is_quiet:
                logger.info(
                    "%s %s %d %.1fms",
                    request.method,
                    request.path,
                    response.status_code,
                    seconds * 1000,
                )
        return response


def _route(request: HttpRequest) -> str:
    """The route that was asked, without what callers put into it; the admin's pages are one."""
    match = request.resolver_match
    route = f"/{match.route}" if match else request.path if request.path in ("/live", "/ready") else "other"
    return "/admin" if route.startswith("/admin") else re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", route)


def _refusal(request: HttpRequest) -> HttpResponse | None:
    """While the process ends: 503 for new predictions, and the connection closed, so that the caller tries another."""
    if not (is_refusing() and request.path in NEW_PREDICTIONS):
        return None
    response = _closing(503, "unavailable", "this process is shutting down: try again")
    response["Retry-After"] = "1"
    return response


def _malformed(request: HttpRequest) -> HttpResponse | None:
    """A query with a NUL in it: no database takes one."""
    if "\0" in unquote(request.META.get("QUERY_STRING", "")):
        return JsonResponse({"error": "the query has a NUL character in it", "code": "invalid_request"}, status=400)
    return None


def _unchunk(request: HttpRequest) -> HttpResponse | None:
    """Gives a chunked body (no Content-Length) the length that Django needs to read it; refuses one it cannot read."""
    coding = request.META.get("HTTP_TRANSFER_ENCODING", "").strip().lower()
    if not coding or "wsgi.input" not in request.META:
        return None
    if coding != "chunked":
        return _closing(400, "invalid_request", f"the transfer coding {coding!r} is not understood here")
    try:
        body = request.META["wsgi.input"].read(settings.MAX_REQUEST_BODY + 1)
    except (ParseException, OSError):  # chunks that are none; a caller who left, or whose body ends too early
        return _closing(400, "invalid_request", "the chunked body is malformed")
    if len(body) > settings.MAX_REQUEST_BODY:
        return _closing(413, "body_too_large", "a chunked body may not be larger than MAX_REQUEST_BODY")
    request.META["CONTENT_LENGTH"] = str(len(body))
    request._stream = io.BytesIO(body)
    return None


def _closing(status: int, code: str, sentence: str) -> HttpResponse:
    """An answer after which the connection is of no use: what the caller sent was not read to its end."""
    response = JsonResponse({"error": sentence, "code": code}, status=status)
    response["Connection"] = "close"
    return response


class JSONBodyParser(BaseParser):
    """A JSON body of at most MAX_REQUEST_BODY bytes. Raises BodyTooLarge and ParseError."""

    media_type = "application/json"

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        length = int((parser_context or {})["request"].META.get("CONTENT_LENGTH") or 0)
        if length > settings.MAX_REQUEST_BODY:
            raise BodyTooLarge
        try:
            return json.loads(stream.read(), parse_constant=_refuse_constant, parse_float=_finite)
        except RecursionError as error:
            raise ParseError("the body is nested too deeply") from error
        except UnicodeDecodeError as error:
            raise ParseError("the body is not UTF-8") from error
        except ValueError as error:
            raise ParseError(f"the body is not JSON: {error}") from error


class JSONAnswer(BaseRenderer):
    """ASCII JSON: whatever a model answered, half a surrogate pair included, reaches the caller."""

    media_type = "application/json"
    format = "json"
    charset = None

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> bytes:
        return b"" if data is None else json.dumps(data, separators=(",", ":")).encode()


class AllowAlone(BaseMetadata):
    """OPTIONS is answered with `Allow`, and without what DRF would tell of our classes."""

    def determine_metadata(self, request: Request, view: "APIView") -> None:
        return None


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number that JSON can carry")


def _finite(text: str) -> float:
    """Python reads 1e400 as infinity, which JSON cannot say again."""
    number = float(text)
    return number if math.isfinite(number) else _refuse_constant(text)


class AlwaysJSON(BaseContentNegotiation):
    """Answers are JSON whatever `Accept` says; bodies are what `Content-Type` says."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser | None:
        given = (request.content_type or "").split(";")[0].strip().lower()
        return next((parser for parser in parsers if parser.media_type == given), None)

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        renderer = next(iter(renderers))
        return renderer, str(renderer.media_type)
