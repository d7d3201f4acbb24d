"""The short way of what callers send again and again: past the middleware that only pages need, past Django's signals,
its search for a route and its second look at exceptions. DRF's views answer what they are asked there as anywhere.
"""

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from django.core.handlers.exception import convert_exception_to_response
from django.core.handlers.wsgi import WSGIHandler
from django.db import DEFAULT_DB_ALIAS, connections
from django.http import HttpRequest, HttpResponse
from django.middleware.clickjacking import XFrameOptionsMiddleware
from django.middleware.common import CommonMiddleware
from django.urls import Resolver404, ResolverMatch, resolve

from predictions.api.headers import HeadersMiddleware, HTTPSRedirectMiddleware
from predictions.api.requests import RequestMiddleware
from predictions.models import new_task_id

Way = Callable[..., Any]

ROUTES = ("/v1/predict", "/async/v1/predict", "/v1/generate", "/task/{task_id}", "/cancel/{task_id}")
"""Their views know callers by keys alone: no session, no sign-in, no CSRF token, no messages."""
ID = "{task_id}"
_ID_OF_OURS = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""An id as new_task_id makes it: no other route has such a name."""


class ShortcutMiddleware:
    """Hands requests of these routes to their view, by the short way; stands before all middleware."""

    def __init__(self, get_response: Way) -> None:
        self.get_response = get_response
        self._ways = _Ways()

    def __call__(self, request: HttpRequest) -> Any:
        way = self._ways.of(request.path_info)
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
        self._ways = _Ways()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        way = self._ways.of(environ.get("PATH_INFO", ""))
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


class _Ways:
    """Those of the routes that this process's urls have."""

    def __init__(self) -> None:
        known = {route: _ShortWay(match) for route in ROUTES if (match := _match(route))}
        self._whole = {route: way for route, way in known.items() if not route.endswith(ID)}
        self._before_id = {route.removesuffix(ID): way for route, way in known.items() if route.endswith(ID)}

    def of(self, path: str) -> Way | None:
        """What answers it; None where that is Django's."""
        way = self._whole.get(path)
        if way is not None:
            return way
        beginning, slash, task_id = path.rpartition("/")
        way = self._before_id.get(beginning + slash)
        return partial(way, task_id=task_id) if way is not None and _ID_OF_OURS.fullmatch(task_id) else None


def _match(route: str) -> ResolverMatch | None:
    try:
        return resolve(route.replace(ID, new_task_id()))
    except Resolver404:
        return None


class _ShortWay:
    """The view, and around it what every request goes through.

    The headers by which browsers are told what an answer may do are the same for each, or one of two (HTTPS): they are
    asked for once, with an answer that has none of its own.
    """

    def __init__(self, match: ResolverMatch) -> None:
        self._match = match
        checked: Any = convert_exception_to_response(CommonMiddleware(_answer))
        self._asked = RequestMiddleware(checked)
        self._protected: Way = convert_exception_to_response(
            HTTPSRedirectMiddleware(XFrameOptionsMiddleware(HeadersMiddleware(_empty)))
        )
        self._headers: dict[bool, dict[str, str]] = {}

    def __call__(self, request: HttpRequest, **kwargs: str) -> tuple[Any, dict[str, str]]:
        """The answer, and the headers that it is to have where it has none of that name."""
        request.resolver_match = ResolverMatch(self._match.func, (), kwargs, route=self._match.route)
        is_secure = request.is_secure()
        headers = self._headers.get(is_secure)
        if headers is None:
            shown = self._protected(request)
            if shown.status_code != 200:  # redirected to HTTPS, or refused for its Host header
                return shown, {}
            del shown.headers["Content-Type"]
            headers = self._headers[is_secure] = dict(shown.items())
        return self._asked(request), headers


def _empty(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


def _answer(request: HttpRequest) -> HttpResponse:
    match: Any = request.resolver_match
    response: Any = match.func(request, **match.kwargs)
    answer: HttpResponse = response.render() if hasattr(response, "render") else response
    return answer
