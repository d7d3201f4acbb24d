"""What goes past the middleware of pages, and what does not."""

import pytest
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import resolve
from django.utils.module_loading import import_string
from rest_framework.test import APIClient

from predictions.api.authentication import StaffSession
from predictions.api.shortcut import ROUTES, ShortcutMiddleware


@pytest.mark.parametrize("path", ROUTES)
def test_a_view_that_is_reached_by_the_shortcut_knows_no_sessions_and_needs_no_csrf_token(path: str) -> None:
    view = resolve(path).func
    assert not any(issubclass(known, StaffSession) for known in view.cls.authentication_classes)  # type: ignore[attr-defined]
    assert view.csrf_exempt  # type: ignore[attr-defined]


def passed(path: str) -> list[str]:
    """The middleware after the shortcut that a request goes through, of those the settings name."""
    seen = []

    def spied(path: str, get_response: object) -> object:
        middleware = import_string(path)(get_response)

        def spy(request: HttpRequest) -> HttpResponse:
            seen.append(path)
            answer: HttpResponse = middleware(request)
            return answer

        spy.get_response = get_response  # type: ignore[attr-defined]
        return spy

    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    after = settings.MIDDLEWARE[settings.MIDDLEWARE.index("predictions.api.shortcut.ShortcutMiddleware") + 1 :]
    chain: object = view
    for name in reversed(after):
        chain = spied(name, chain)
    request = HttpRequest()
    request.path = request.path_info = path
    request.method = "POST"
    ShortcutMiddleware(chain)(request)  # type: ignore[arg-type]
    return seen


@pytest.mark.parametrize("path", ROUTES)
def test_a_prediction_goes_past_sessions_and_tokens(path: str) -> None:
    assert passed(path) == []


@pytest.mark.parametrize("path", ["/pause", "/v1/predict/", "/admin/", "/v1/docs"])
def test_everything_else_goes_through_all_of_them(path: str) -> None:
    assert "django.contrib.sessions.middleware.SessionMiddleware" in passed(path)


def test_a_prediction_is_answered_without_a_look_at_the_callers_session(client: APIClient) -> None:
    client.cookies["sessionid"] = "of somebody"
    answer = client.post("/v1/predict", {"model_name": ""}, format="json")
    assert answer.status_code == 400
    assert not hasattr(answer.wsgi_request, "session")
    assert answer["Content-Length"] == str(len(answer.content))
    assert hasattr(client.get("/v1/queue_size").wsgi_request, "session")
