"""The short way of what callers send again and again: past the middleware that only pages need, past Django's signals,
its search for a route and its second look at exceptions. DRF's views answer what they are asked there as anywhere.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from django.core.handlers.exception import convert_exception_to_response
from django.core.handlers.wsgi import WSGIHandler
from django.db import DEFAULT_DB_ALIAS, connections
from django.http import HttpRequest, HttpResponse
from django.middleware.clickjacking import XFrameOptionsMiddleware
from django.middleware.common import CommonMiddleware
from django.middleware.security import SecurityMiddleware
from django.urls import Resolver404, ResolverMatch, resolve

from predictions.api.headers import HeadersMiddleware
from predictions.api.requests import RequestMiddleware

Way = Callable[[HttpRequest], Any]

ROUTES = ("/v1/predict", "/async/v1/predict", "/v1/generate")
"""Their views know callers by keys alone: no session, no sign-in, no CSRF token, no messages."""


class ShortcutMiddleware:
    """Hands requests of these routes to their view, by the short way; stands before all middleware."""

    def __init__(self, get_response: Way) -> None:
        self.get_response = get_response
        self._ways = _ways()

    def __call__(self, request: HttpRequest) -> Any:
        way = self._ways.get(request.path_info)
        if way is None:
            return self.get_response(request)
        response, headers = way(request)
        for name, value in headers.items():
            response.headers.setdefault(name, value)
        return response


class ShortcutHandler(WSGIHandler):
    """Django's WSGI application, which does not even send its signals around a request of these routes."""

    def __init__(self) -> None:
        super().__init__()
        self._ways = _ways()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        way = self._ways.get(environ.get("PATH_INFO", ""))
        if way is None:
            return super().__call__(environ, start_response)
        response, headers = way(self.request_class(environ))
        start_response(f"{response.status_code} {response.reason_phrase}", [*{**headers, **response.headers}.items()])
        if response.streaming:
            return response
        database = connections[DEFAULT_DB_ALIAS]
        if database.errors_occurred:
            database.close_if_unusable_or_obsolete()
        content: Iterable[bytes] = [response.content]
        return content


def _ways() -> dict[str, "_ShortWay"]:
    """Path → what answers it; without those that this process's urls do not have."""
    return {path: _ShortWay(match) for path in ROUTES if (match := _match(path))}


def _match(path: str) -> ResolverMatch | None:
    try:
        return resolve(path)
    except Resolver404:
        return None


class _ShortWay:
    """The view, and around it what every request goes through.

    The headers by which browsers are told what an answer may do are the same for each, or one of two (HTTPS): they are
    asked for once, with an answer that has none of its own.
    """

    def __init__(self, match: ResolverMatch) -> None:
        checked: Any = convert_exception_to_response(CommonMiddleware(partial(_answer, match)))
        self._asked = RequestMiddleware(checked)
        self._protected: Way = SecurityMiddleware(XFrameOptionsMiddleware(HeadersMiddleware(_empty)))
        self._headers: dict[bool, dict[str, str]] = {}

    def __call__(self, request: HttpRequest) -> tuple[Any, dict[str, str]]:
        """The answer, and the headers that it is to have where it has none of that name."""
        is_secure = request.is_secure()
        headers = self._headers.get(is_secure)
        if headers is None:
            shown = self._protected(request)
            if shown.status_code != 200:  # sent on to HTTPS
                return shown, {}
            del shown.headers["Content-Type"]
            headers = self._headers[is_secure] = dict(shown.items())
        return self._asked(request), headers


def _empty(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


def _answer(match: ResolverMatch, request: HttpRequest) -> HttpResponse:
    request.resolver_match = match
    response: Any = match.func(request)
    answer: HttpResponse = response.render() if hasattr(response, "render") else response
    return answer
