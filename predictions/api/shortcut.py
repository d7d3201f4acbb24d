"""The WSGI application: Django's handler, with a short way for predictions and tasks.

The views of `_PATHS` identify callers by API keys alone. Their requests skip the middleware that only pages need
(sessions, CSRF, sign-in, messages, static files). All other requests take Django's way, and tests compare the two.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.handlers.exception import convert_exception_to_response
from django.core.handlers.wsgi import WSGIHandler
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.middleware.common import CommonMiddleware
from django.urls import Resolver404, ResolverMatch, resolve

from predictions.api.requests import NO_CONTENT_POLICY, RequestMiddleware

_PATHS = re.compile("/v1/predict|/async/v1/predict|/v1/generate|/(task|cancel)/[0-9a-f-]{36}")


class ShortcutHandler(WSGIHandler):
    """Gives the same answers as WSGIHandler."""

    def __init__(self) -> None:
        super().__init__()
        self._match = lru_cache(maxsize=1024)(_match)
        checked: Any = convert_exception_to_response(CommonMiddleware(_call_view))
        self._respond = RequestMiddleware(checked)
        self._headers = {
            "X-Frame-Options": settings.X_FRAME_OPTIONS,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": settings.SECURE_REFERRER_POLICY,
            "Cross-Origin-Opener-Policy": settings.SECURE_CROSS_ORIGIN_OPENER_POLICY,
            "Cache-Control": "no-store",
            "Content-Security-Policy": NO_CONTENT_POLICY,
        }

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        match = self._match(environ.get("PATH_INFO", ""))
        if match is None:
            return super().__call__(environ, start_response)
        request = self.request_class(environ)
        is_secure = request.is_secure()
        if settings.SECURE_SSL_REDIRECT and not is_secure:
            return super().__call__(environ, start_response)
        request.resolver_match = match
        response: Any = self._respond(request)
        headers = {**self._headers, **response.headers}
        if is_secure and settings.SECURE_HSTS_SECONDS:
            headers["Strict-Transport-Security"] = f"max-age={settings.SECURE_HSTS_SECONDS}"
        start_response(f"{response.status_code} {response.reason_phrase}", list(headers.items()))
        if response.streaming:
            return response
        connection.close_if_unusable_or_obsolete()  # Django does this, and closes uploads, through a signal
        return [response.content]


def _match(path: str) -> ResolverMatch | None:
    try:
        return resolve(path) if _PATHS.fullmatch(path) else None
    except Resolver404:
        return None


def _call_view(request: HttpRequest) -> HttpResponse:
    match: Any = request.resolver_match
    response: Any = match.func(request, **match.kwargs)
    rendered: HttpResponse = response.render() if hasattr(response, "render") else response
    return rendered
