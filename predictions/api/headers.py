"""The redirect to HTTPS, and the headers Content-Security-Policy and Cache-Control."""

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponsePermanentRedirect
from django.middleware.security import SecurityMiddleware

NOTHING = "default-src 'none'; frame-ancestors 'none'"
# The admin's theme uses Alpine.js, which evaluates attributes. Outputs may show pictures from any host.
ADMIN = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: http: https:",
        "font-src 'self' data:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)


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
            policy = ADMIN if request.path.startswith("/admin/") else NOTHING
            response.headers.setdefault("Content-Security-Policy", policy)
        return response
