"""What goes past the middleware of pages, and past Django's signals, and that it is answered as if it had not."""

import json
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from django.contrib.sessions.backends.db import SessionStore
from django.core.handlers.wsgi import WSGIHandler
from django.test import Client
from django.urls import resolve

from predictions.api.authentication import StaffSession
from predictions.api.shortcut import ID, ROUTES, ShortcutHandler
from predictions.models import new_task_id
from tests.helpers.factories import TaskFactory

SHORTCUT = "predictions.api.shortcut.ShortcutMiddleware"
PREDICTIONS = [route for route in ROUTES if not route.endswith(ID)]
OF_A_TASK = [route for route in ROUTES if route.endswith(ID)]
WITH_AN_ID = [route.replace(ID, "019a0000-0000-7000-8000-000000000000") for route in OF_A_TASK]
EACH_ITS_OWN = {"X-Request-ID", "X-Task-ID"}


@pytest.mark.parametrize("path", [*PREDICTIONS, *WITH_AN_ID])
def test_a_view_that_is_reached_by_the_shortcut_knows_no_sessions_and_needs_no_csrf_token(path: str) -> None:
    view = resolve(path).func
    assert not any(issubclass(known, StaffSession) for known in view.cls.authentication_classes)  # type: ignore[attr-defined]
    assert view.csrf_exempt  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", PREDICTIONS)
def test_a_prediction_is_answered_without_a_look_at_the_callers_session(path: str) -> None:
    client = Client()
    client.cookies["sessionid"] = "of somebody"
    answer = client.post(path, {"model_name": ""}, "application/json")
    assert answer.status_code == 400
    assert not hasattr(answer.wsgi_request, "session")
    assert answer["Content-Length"] == str(len(answer.content))


@pytest.mark.parametrize("path", WITH_AN_ID)
def test_a_task_is_asked_after_without_a_look_at_the_callers_session(path: str) -> None:
    client = Client()
    client.cookies["sessionid"] = "of somebody"
    answer = client.get(path)
    assert answer.status_code in (404, 405)
    assert not hasattr(answer.wsgi_request, "session")


@pytest.mark.parametrize(
    "path",
    [
        "/task/modelstatus",
        "/task/of-another-agent",
        "/task/",
        "/pause",
        "/pause/",
        "/admin/",
        "/v1/docs",
        "/v1/queue_size",
    ],
)
def test_everything_else_goes_through_all_of_them(path: str) -> None:
    assert hasattr(Client().get(path).wsgi_request, "session")


@pytest.mark.parametrize("method", ["get", "post", "patch"])
@pytest.mark.parametrize("path", ["/v1/docs", "/task", "/upload", "/u/token/upload", "/media/x", "/metrics", "/live"])
def test_where_keys_alone_count_nobody_looks_the_session_up(
    path: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []
    monkeypatch.setattr(SessionStore, "load", lambda store: looked_up.append(store.session_key) or {})
    client = Client(enforce_csrf_checks=True)
    client.cookies["sessionid"] = "of-somebody-who-signed-in"
    answer = getattr(client, method)(path, {}, content_type="application/json")
    assert answer.status_code != 403
    assert looked_up == []
    client.get("/admin/")
    assert looked_up != []


GOOD: dict[str, Any] = {"model_name": "iris", "inputs": {"answer": 7}}
REQUESTS: dict[str, dict[str, Any]] = {
    "good": {"data": GOOD},
    "refused": {"data": {"model_name": "iris"}},
    "failed": {"data": {"model_name": "iris", "inputs": {"raise": "ValueError"}}},
    "no JSON": {"data": "{"},
    "of another type": {"data": "x", "content_type": "text/plain"},
    "of another method": {"method": "get"},
    "of the method OPTIONS": {"method": "options"},
    "with a wrong key": {"data": GOOD, "headers": {"apikey": "nobody's"}},
    "to another host": {"data": GOOD, "headers": {"Host": "elsewhere.example"}},
    "with its own id": {"data": GOOD, "headers": {"X-Request-ID": "mine"}},
    "over plain HTTP where that is not enough": {"data": GOOD, "settings": {"SECURE_SSL_REDIRECT": True}},
    "over plain HTTP to another host": {
        "data": GOOD,
        "headers": {"Host": "elsewhere.example"},
        "settings": {"SECURE_SSL_REDIRECT": True},
    },
    "over HTTPS": {"data": GOOD, "secure": True, "settings": {"SECURE_HSTS_SECONDS": 60}},
}


def ask(path: str, *, method: str = "post", data: Any = "", content_type: str = "application/json", **more: Any) -> Any:
    return getattr(Client(), method)(path, data, content_type=content_type, **more)


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("path", PREDICTIONS)
def test_the_short_way_answers_as_the_long_one_does(path: str, name: str, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["testserver"]
    asked = dict(REQUESTS[name])
    for setting, value in asked.pop("settings", {}).items():
        setattr(settings, setting, value)
    short = ask(path, **asked)
    settings.MIDDLEWARE = [middleware for middleware in settings.MIDDLEWARE if middleware != SHORTCUT]
    long = ask(path, **asked)
    assert (short.status_code, headers_of(short)) == (long.status_code, headers_of(long))
    assert says(short) == says(long)


@pytest.mark.parametrize("method", ["get", "head", "options", "post", "delete"])
@pytest.mark.parametrize("route", OF_A_TASK)
@pytest.mark.parametrize("whose", ["one that ended", "nobody's", "one asked after with a wrong key"])
def test_a_task_is_told_of_the_short_way_as_the_long_one(route: str, method: str, whose: str, settings: Any) -> None:
    task_id = new_task_id() if whose == "nobody's" else TaskFactory(status="succeeded", outputs={"answer": 7}).pk
    asked: dict[str, Any] = {"headers": {"apikey": "nobody's"}} if "wrong key" in whose else {}
    path = route.replace(ID, task_id)
    short = ask(path, method=method, **asked)
    settings.MIDDLEWARE = [middleware for middleware in settings.MIDDLEWARE if middleware != SHORTCUT]
    long = ask(path, method=method, **asked)
    assert (short.status_code, headers_of(short), short.content) == (long.status_code, headers_of(long), long.content)


def says(answer: Any) -> Any:
    """The error that is answered, or the keys of what is no error."""
    if answer.streaming or not answer.content:
        return None
    said = json.loads(answer.content)
    return said.get("error") or list(said)


def headers_of(answer: Any) -> dict[str, str]:
    lengths = {"Content-Length"} if answer.status_code == 200 else set()  # those of running times
    return {name: value for name, value in answer.headers.items() if name not in EACH_ITS_OWN | lengths}


class Told:
    """What a WSGI server is told."""

    def __init__(self, application: Callable[..., Any], path: str, content: bytes) -> None:
        environ = {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": path,
            "SERVER_NAME": "testserver",
            "SERVER_PORT": "80",
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(content)),
            "wsgi.input": BytesIO(content),
            "wsgi.url_scheme": "http",
        }
        answer = application(environ, self._start)
        self.content = b"".join(answer)
        if hasattr(answer, "close"):
            answer.close()

    def _start(self, status: str, headers: list[tuple[str, str]]) -> None:
        self.status = status
        self.headers = {name: value for name, value in headers if name not in EACH_ITS_OWN}


@pytest.mark.parametrize("content", [b'{"model_name": ""}', b"{"])
@pytest.mark.parametrize("path", [*PREDICTIONS, *WITH_AN_ID, "/v1/docs", "/nowhere"])
def test_a_server_is_told_the_same_as_by_djangos_own_application(path: str, content: bytes) -> None:
    ours, djangos = Told(ShortcutHandler(), path, content), Told(WSGIHandler(), path, content)
    assert vars(ours) == vars(djangos)


@pytest.mark.parametrize("host", ["testserver", "elsewhere.example"])
@pytest.mark.parametrize("path", [*PREDICTIONS, *WITH_AN_ID, "/v1/docs"])
def test_a_server_gets_the_same_redirect_to_https_as_from_djangos_own_application(
    path: str, host: str, settings: Any
) -> None:
    settings.ALLOWED_HOSTS = [host]
    settings.SECURE_SSL_REDIRECT = True
    ours, djangos = Told(ShortcutHandler(), path, b"{}"), Told(WSGIHandler(), path, b"{}")
    assert vars(ours) == vars(djangos)
    assert ours.status == ("308 Permanent Redirect" if host == "testserver" else "400 Bad Request")


def test_a_server_is_handed_a_prediction() -> None:
    told = Told(ShortcutHandler(), "/v1/predict", json.dumps(GOOD).encode())
    assert (told.status, json.loads(told.content)["outputs"]) == ("200 OK", 7)
    assert told.headers["Content-Length"] == str(len(told.content))
