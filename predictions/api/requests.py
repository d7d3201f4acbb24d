"""What every request goes through: its id, what is refused at the door, and JSON out."""

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from django.conf import settings
from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils.encoding import escape_uri_path
from rest_framework.metadata import BaseMetadata
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from platforms.parsing import written
from predictions.api.bodies import find_chunked_body
from predictions.database.errors import release_connection
from predictions.ids import new_id
from predictions.server.draining import NEW_PREDICTIONS, is_refusing
from predictions.telemetry import tracing
from predictions.telemetry.counters import request_answered
from predictions.telemetry.log_context import working_on

if TYPE_CHECKING:
    from rest_framework.views import APIView

logger = logging.getLogger("requests")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:@=+/-]{1,128}")
_QUIET = ("/live", "/ready", "/metrics", "/static/")


class TrailingSlashMiddleware:
    """Takes one slash from the end of a path; the admin's pages and static files keep theirs."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        path = request.path_info
        if path.endswith("/") and path != "/" and not path.startswith(("/admin/", settings.STATIC_URL)):
            request.path_info = path[:-1]
            request.path = request.path[:-1]
        return self.get_response(request)


class RequestMiddleware:
    """Gives the request an id (its own `X-Request-ID`, or a new one), hands it back, and logs the answer."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        said = request.META
        given = said.get("HTTP_X_REQUEST_ID", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else new_id().hex
        started = time.monotonic()
        is_quiet = request.path.startswith(_QUIET)
        trace = nullcontext(tracing.Part("")) if is_quiet else tracing.answering(said.get("HTTP_TRACEPARENT", ""))
        with working_on(request_id=request_id), trace as part:
            response = _refusal(request) or _malformed(request) or self._answer(request)
            seconds = time.monotonic() - started
            response["X-Request-ID"] = request_id
            route = _route(request)
            request_answered(route, response.status_code, seconds)
            part.answered(request.method or "", route, response.status_code)
            if not response.streaming:
                release_connection()  # a caller who reads slowly must not hold it
            if not is_quiet and logger.isEnabledFor(logging.INFO):
                logger.info(
                    "%s %s %d %.1fms",
                    request.method,
                    _shown(request.path),
                    response.status_code,
                    seconds * 1000,
                )
        return response

    def _answer(self, request: HttpRequest) -> HttpResponse:
        try:
            chunked = find_chunked_body(request)
        except BadRequest as error:
            return _closing(400, "invalid_request", str(error))
        response = self.get_response(request)
        if chunked is not None and not chunked.is_read:
            response["Connection"] = "close"
        return response


def _shown(path: str) -> str:
    """A path for the log: no line of a caller's own making, and no token by which files may be sent."""
    return escape_uri_path(re.sub(r"^/u/[^/]+", "/u/…", path))


def _route(request: HttpRequest) -> str:
    """The route that was asked, without what callers put into it; the admin's pages are one."""
    match = request.resolver_match
    return _in_words(f"/{match.route}") if match else request.path if request.path in ("/live", "/ready") else "other"


def known_routes() -> list[str]:
    """The labels by which requests are counted: the API's routes, the admin's pages as one, and `other`."""

    def walk(patterns: Iterable[URLPattern | URLResolver], prefix: str) -> Iterator[str]:
        for pattern in patterns:
            if isinstance(pattern, URLResolver):
                yield from walk(pattern.url_patterns, prefix + str(pattern.pattern))
            else:
                yield _in_words(f"/{prefix}{pattern.pattern}")

    return sorted({*walk(get_resolver().url_patterns, ""), "other"})


@lru_cache
def _in_words(pattern: str) -> str:
    """There are as many patterns as routes."""
    return "/admin" if pattern.startswith("/admin") else re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", pattern)


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


def _closing(status: int, code: str, sentence: str) -> HttpResponse:
    """An answer after which the connection is of no use: what the caller sent was not read to its end."""
    response = JsonResponse({"error": sentence, "code": code}, status=status)
    response["Connection"] = "close"
    return response


def query_or_body(request: Request) -> dict[str, Any]:
    """The fields of a GET's JSON body, if it is an object, and of its query string, which wins."""
    body = request.data if isinstance(request.data, dict) else {}
    return {**body, **request.query_params.dict()}


class JSONAnswer(BaseRenderer):
    """Whatever a model answered, half a surrogate pair included, reaches the caller."""

    media_type = "application/json"
    format = "json"
    charset = None

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> bytes:
        return b"" if data is None else written(data)


def answered(data: Any) -> HttpResponse:
    """The answer of a view that is asked often: made at once, where DRF's own waits for a renderer to be chosen."""
    return HttpResponse(JSONAnswer().render(data), content_type=JSONAnswer.media_type)


class AllowAlone(BaseMetadata):
    """OPTIONS is answered with `Allow`, and without what DRF would tell of our classes."""

    def determine_metadata(self, request: Request, view: "APIView") -> None:
        return None


class AlwaysJSON(BaseContentNegotiation):
    """Answers are JSON whatever `Accept` says; bodies are what `Content-Type` says, and JSON without it."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser | None:
        given = (request.content_type or "").split(";")[0].strip().lower()
        # A page of another site can make a browser send a body without a type, but not without an Origin.
        if not given and "HTTP_ORIGIN" not in request.META:
            given = "application/json"
        return next((parser for parser in parsers if parser.media_type == given), None)

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        renderer = next(iter(renderers))
        return renderer, str(renderer.media_type)
