"""What callers send again and again, past the middleware that only pages need."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

ROUTES = ("/v1/predict", "/async/v1/predict", "/v1/generate")
"""Their views know callers by keys alone: no session, no sign-in, no CSRF token, no messages."""


class ShortcutMiddleware:
    """Hands requests of these routes to their view; stands before the middleware that is left out."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = self.view = get_response
        while next_one := getattr(self.view, "get_response", None):  # what wraps a middleware has its attributes
            self.view = next_one

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return (self.view if request.path in ROUTES else self.get_response)(request)
