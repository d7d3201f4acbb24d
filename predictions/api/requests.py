"""Middleware and DRF classes of all requests: ids, early refusals, logs, metrics, headers, JSON bodies."""

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any, BinaryIO, NoReturn, cast
from urllib.parse import unquote

from django.conf import settings
from django.core.exceptions import BadRequest, RequestDataTooBig
from django.http import HttpRequest, HttpResponse, HttpResponsePermanentRedirect, JsonResponse
from django.middleware.security import SecurityMiddleware
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils.encoding import escape_uri_path
from gunicorn.http.errors import ParseException
from rest_framework.exceptions import ParseError
from rest_framework.metadata import BaseMetadata
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from platforms.parsing import Malformed, dumps, parse
from predictions.database.errors import release_connection
from predictions.ids import new_id
from predictions.server.draining import NEW_PREDICTIONS, refusing
from predictions.telemetry import tracing
from predictions.telemetry.counters import request_answered
from predictions.telemetry.log_context import working_on

if TYPE_CHECKING:
    from rest_framework.views import APIView

logger = logging.getLogger("requests")

NO_CONTENT_POLICY = "default-src 'none'; frame-ancestors 'none'"
# The admin's theme uses Alpine.js, which evaluates attributes. Outputs may show pictures from any host.
ADMIN_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: http: https:; font-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
WRAPPING = 10
"""Extra nesting levels for records, which wrap the outputs of other agents' platforms."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:@=+/-]{1,128}")
_QUIET = ("/live", "/ready", "/metrics", "/static/")


class TrailingSlashMiddleware:
    """Removes one slash from the end of a path, except for the admin's pages and static files."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        path = request.path_info
        if path.endswith("/") and path != "/" and not path.startswith(("/admin/", settings.STATIC_URL)):
            request.path_info = path[:-1]
            request.path = request.path[:-1]
        return self.get_response(request)


class RequestMiddleware:
    """Gives the request an id (its `X-Request-ID` or a new one), and counts, traces and logs the answer."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        headers = request.META
        given = headers.get("HTTP_X_REQUEST_ID", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else new_id().hex
        started = time.monotonic()
        is_quiet = request.path.startswith(_QUIET)
        trace = nullcontext(tracing.Span("")) if is_quiet else tracing.answering(headers.get("HTTP_TRACEPARENT", ""))
        with working_on(request_id=request_id), trace as part:
            response = _refusal(request) or self._answer(request)
            seconds = time.monotonic() - started
            response["X-Request-ID"] = request_id
            if request.resolver_match:
                route = _label(f"/{request.resolver_match.route}")
            else:
                route = request.path if request.path in ("/live", "/ready") else "other"
            request_answered(route, response.status_code, seconds)
            part.answered(request.method or "", route, response.status_code)
            if not response.streaming:
                release_connection()  # a caller that reads slowly must not hold it
            if not is_quiet and logger.isEnabledFor(logging.INFO):
                # Without line breaks, which would forge lines of the log, and without an upload's token.
                path = escape_uri_path(re.sub(r"^/u/[^/]+", "/u/…", request.path))
                logger.info("%s %s %d %.1fms", request.method, path, response.status_code, seconds * 1000)
        return response

    def _answer(self, request: HttpRequest) -> HttpResponse:
        try:
            chunked = find_chunked_body(request)
        except BadRequest as error:
            return _close(error_response(400, "invalid_request", str(error)))
        response = self.get_response(request)
        return response if chunked is None or chunked.is_read else _close(response)


class HTTPSRedirectMiddleware(SecurityMiddleware):
    """Redirects plain HTTP with 308 instead of 301, after which clients send a GET without the body.

    Django's deployment checks look for Django's own class by name, so MIDDLEWARE also has that one.
    """

    def process_request(self, request: HttpRequest) -> HttpResponsePermanentRedirect | None:
        redirect = super().process_request(request)
        if redirect is not None:
            redirect.status_code = 308
        return redirect


class HeadersMiddleware:
    """Adds Content-Security-Policy and Cache-Control unless the view has set them."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response.headers.setdefault("Cache-Control", "no-store")
        if not (settings.DEBUG and response.status_code >= 400):  # Django's debug pages have inline scripts
            policy = ADMIN_POLICY if request.path.startswith("/admin/") else NO_CONTENT_POLICY
            response.headers.setdefault("Content-Security-Policy", policy)
        return response


def known_routes() -> list[str]:
    """The labels of requests in metrics: the API's routes, `/admin` for all its pages, and `other`."""

    def walk(patterns: Iterable[URLPattern | URLResolver], prefix: str) -> Iterator[str]:
        for pattern in patterns:
            if isinstance(pattern, URLResolver):
                yield from walk(pattern.url_patterns, prefix + str(pattern.pattern))
            else:
                yield _label(f"/{prefix}{pattern.pattern}")

    return sorted({*walk(get_resolver().url_patterns, ""), "other"})


@lru_cache
def _label(pattern: str) -> str:
    return "/admin" if pattern.startswith("/admin") else re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", pattern)


def _refusal(request: HttpRequest) -> HttpResponse | None:
    """503 for new predictions while the process ends, and 400 for a NUL in the query, which no database takes."""
    if refusing.is_set() and request.path in NEW_PREDICTIONS:
        response = _close(error_response(503, "unavailable", "this process is shutting down: try again"))
        response["Retry-After"] = "1"
        return response
    if "\0" in unquote(request.META.get("QUERY_STRING", "")):
        return error_response(400, "invalid_request", "the query has a NUL character in it")
    return None


def error_response(status: int, code: str, sentence: str) -> JsonResponse:
    """An error's answer outside DRF's views."""
    return JsonResponse({"error": sentence, "code": code}, status=status)


def _close(response: HttpResponse) -> HttpResponse:
    """Closes the connection after an answer that came before the end of the request's body."""
    response["Connection"] = "close"
    return response


class ChunkedBody:
    """A body without a length. It is read after authentication, so a slow caller without a key costs nothing.

    Raises RequestDataTooBig beyond MAX_REQUEST_BODY, and BadRequest if it is malformed.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._left = settings.MAX_REQUEST_BODY
        self.is_read = False
        """Whether the end was reached. If not, the connection cannot be used again."""

    def read(self, size: int | None = None) -> bytes:
        wanted = self._left + 1 if size is None or size < 0 else min(size, self._left + 1)
        try:
            data = self._stream.read(wanted)
        except (ParseException, OSError) as error:  # broken chunks, or a caller that hung up
            raise BadRequest("the chunked body is malformed") from error
        self._left -= len(data)
        if self._left < 0:
            raise RequestDataTooBig
        self.is_read = len(data) < wanted
        return data


def find_chunked_body(request: HttpRequest) -> ChunkedBody | None:
    """Makes a chunked body readable for Django and DRF, which only read bodies with a length.

    Raises BadRequest for other transfer codings.
    """
    coding = request.META.get("HTTP_TRANSFER_ENCODING", "").strip().lower()
    if not coding or "wsgi.input" not in request.META:
        return None
    if coding != "chunked":
        raise BadRequest(f"the transfer coding {coding[:50]!r} is not understood here")
    body = ChunkedBody(request.META["wsgi.input"])
    request.META["CONTENT_LENGTH"] = str(settings.MAX_REQUEST_BODY)  # the largest possible length
    request._stream = cast(BinaryIO, body)
    return body


class JSONBodyParser(BaseParser):
    """A JSON body of at most MAX_REQUEST_BODY bytes. Raises RequestDataTooBig and ParseError."""

    media_type = "application/json"

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        def refuse(text: str) -> NoReturn:
            raise Malformed(f"has {text[:50]} in it, which is not a number that JSON can carry")

        meta = (parser_context or {})["request"].META
        length = int(meta.get("CONTENT_LENGTH") or 0)
        if length > settings.MAX_REQUEST_BODY:
            raise RequestDataTooBig
        content = stream.read()
        if len(content) < length and "HTTP_TRANSFER_ENCODING" not in meta:
            raise ParseError("the body ended before its Content-Length")
        try:
            return parse(content, not_a_number=refuse, wrapping=WRAPPING)
        except Malformed as error:
            raise ParseError(f"the body {error}") from error


def query_or_body(request: Request) -> dict[str, Any]:
    """The fields of a GET's JSON body, if it is an object, and of its query string, which wins."""
    body = request.data if isinstance(request.data, dict) else {}
    return {**body, **request.query_params.dict()}


class JSONAnswer(BaseRenderer):
    """Writes all that models answer, lone surrogates included."""

    media_type = "application/json"
    format = "json"
    charset = None

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> bytes:
        return b"" if data is None else dumps(data)


def answered(data: Any) -> HttpResponse:
    """A JSON answer for the most frequent views. It skips DRF's choice of a renderer."""
    return HttpResponse(JSONAnswer().render(data), content_type=JSONAnswer.media_type)


class AllowAlone(BaseMetadata):
    """Answers OPTIONS with `Allow` only. DRF's own answer describes our classes."""

    def determine_metadata(self, request: Request, view: "APIView") -> None:
        return None


class AlwaysJSON(BaseContentNegotiation):
    """Answers JSON to every `Accept`. Reads bodies by their `Content-Type`, and as JSON without one."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser | None:
        given = (request.content_type or "").split(";")[0].strip().lower()
        # Another site's page can make a browser send a body without a type, but not without an Origin.
        if not given and "HTTP_ORIGIN" not in request.META:
            given = "application/json"
        return next((parser for parser in parsers if parser.media_type == given), None)

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        renderer = next(iter(renderers))
        return renderer, str(renderer.media_type)
