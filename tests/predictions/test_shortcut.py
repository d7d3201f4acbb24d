"""The shortcut for predictions and tasks gives the same answers as Django's own handler."""

import json
from io import BytesIO
from typing import Any, NamedTuple

import pytest
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest
from django.test import Client
from django.urls import resolve

from predictions.api.authentication import StaffSession
from predictions.api.shortcut import ShortcutHandler
from predictions.models import new_task_id
from tests.helpers.factories import TaskFactory

PREDICTIONS = ["/v1/predict", "/async/v1/predict", "/v1/generate"]
OF_A_TASK = ["/task/", "/cancel/"]
UNKNOWN_ID = "019a0000-0000-7000-8000-000000000000"
SHORT = [*PREDICTIONS, *(path + UNKNOWN_ID for path in OF_A_TASK)]
LONG = ["/task/modelstatus", "/task/of-another-agent", "/task/", "/pause", "/pause/", "/admin/", "/v1/docs", "/nowhere"]
DIFFERS = {"X-Request-ID", "X-Task-ID"}
GOOD: dict[str, Any] = {"model_name": "iris", "inputs": {"answer": 7}}


class Answer(NamedTuple):
    """The response that a WSGI server receives."""

    status: str
    headers: dict[str, str]
    content: bytes


def ask(
    application: WSGIHandler,
    path: str,
    *,
    method: str = "POST",
    content: bytes = b"",
    content_type: str = "application/json",
    scheme: str = "http",
    host: str = "testserver",
    **headers: str,
) -> Answer:
    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "SERVER_NAME": "testserver",
        "SERVER_PORT": "80",
        "CONTENT_TYPE": content_type,
        "CONTENT_LENGTH": str(len(content)),
        "HTTP_HOST": host,
        "wsgi.input": BytesIO(content),
        "wsgi.url_scheme": scheme,
        **{f"HTTP_{name.upper()}": value for name, value in headers.items()},
    }
    began: list[Any] = []
    response: Any = application(environ, lambda status, headers: began.extend((status, headers)))
    content = b"".join(response)
    if hasattr(response, "close"):
        response.close()
    status, pairs = began
    assert len(dict(pairs)) == len(pairs)
    return Answer(status, {name: value for name, value in pairs if name not in DIFFERS}, content)


def both(path: str, **request: Any) -> tuple[Answer, Answer]:
    return ask(ShortcutHandler(), path, **request), ask(WSGIHandler(), path, **request)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the requests that Django's middleware for sessions saw."""
    seen: list[str] = []
    original = SessionMiddleware.process_request

    def process_request(middleware: SessionMiddleware, request: HttpRequest) -> None:
        seen.append(request.path_info)
        original(middleware, request)

    monkeypatch.setattr(SessionMiddleware, "process_request", process_request)
    return seen


@pytest.mark.parametrize("path", SHORT)
def test_a_view_of_the_short_way_knows_no_sessions_and_needs_no_csrf_token(path: str) -> None:
    view = resolve(path).func
    assert not any(issubclass(known, StaffSession) for known in view.cls.authentication_classes)  # type: ignore[attr-defined]
    assert view.csrf_exempt  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", SHORT)
def test_a_prediction_is_answered_without_a_look_at_the_callers_session(path: str, sessions: list[str]) -> None:
    assert ask(ShortcutHandler(), path, cookie="sessionid=x").status[:3] in ("400", "404", "405")
    assert sessions == []


@pytest.mark.parametrize("path", LONG)
def test_every_other_request_takes_djangos_way(path: str, sessions: list[str]) -> None:
    ask(ShortcutHandler(), path)
    assert len(sessions) == 1


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


def body(data: Any) -> bytes:
    return json.dumps(data).encode()


REQUESTS: dict[str, dict[str, Any]] = {
    "good": {"content": body(GOOD)},
    "refused": {"content": body({"model_name": "iris"})},
    "failed": {"content": body({"model_name": "iris", "inputs": {"raise": "ValueError"}})},
    "no JSON": {"content": b"{"},
    "of another type": {"content": b"x", "content_type": "text/plain"},
    "of another method": {"method": "GET"},
    "of the method OPTIONS": {"method": "OPTIONS"},
    "with a wrong key": {"content": body(GOOD), "apikey": "unknown"},
    "to another host": {"content": body(GOOD), "host": "elsewhere.example"},
    "with its own id": {"content": body(GOOD), "x_request_id": "mine"},
    "over plain HTTP where that is not enough": {"content": body(GOOD), "settings": {"SECURE_SSL_REDIRECT": True}},
    "over plain HTTP to another host": {
        "content": body(GOOD),
        "host": "elsewhere.example",
        "settings": {"SECURE_SSL_REDIRECT": True},
    },
    "over HTTPS": {"content": body(GOOD), "scheme": "https", "settings": {"SECURE_SSL_REDIRECT": True}},
    "over HTTPS with HSTS": {"content": body(GOOD), "scheme": "https", "settings": {"SECURE_HSTS_SECONDS": 60}},
}


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("path", [*PREDICTIONS, "/v1/docs"])
def test_the_short_way_answers_as_djangos(path: str, name: str, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["testserver"]
    request = dict(REQUESTS[name])
    for setting, value in request.pop("settings", {}).items():
        setattr(settings, setting, value)
    short, long = both(path, **request)
    assert (short.status, without_length(short)) == (long.status, without_length(long))
    assert says(short) == says(long)


def test_the_short_way_redirects_to_https(settings: Any) -> None:
    settings.SECURE_SSL_REDIRECT = True
    assert ask(ShortcutHandler(), "/v1/predict").status == "308 Permanent Redirect"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "DELETE"])
@pytest.mark.parametrize("path", OF_A_TASK)
@pytest.mark.parametrize("whose", ["one that ended", "nobody's", "one asked after with a wrong key"])
def test_the_short_way_answers_about_a_task_as_djangos(path: str, method: str, whose: str) -> None:
    task_id = new_task_id() if whose == "nobody's" else TaskFactory(status="succeeded", outputs={"answer": 7}).pk
    headers = {"apikey": "unknown"} if "wrong key" in whose else {}
    short, long = both(path + task_id, method=method, **headers)
    assert short == long


def says(answer: Answer) -> Any:
    """The error in an answer, or the keys of any other answer."""
    try:
        said = json.loads(answer.content)
    except ValueError:  # a stream, or nothing
        return len(answer.content.splitlines())
    return said.get("error") or list(said)


def without_length(answer: Answer) -> dict[str, str]:
    """Running times are of different lengths."""
    left_out = {"Content-Length"} if answer.status == "200 OK" else set()
    return {name: value for name, value in answer.headers.items() if name not in left_out}


def test_a_server_is_handed_a_prediction() -> None:
    answer = ask(ShortcutHandler(), "/v1/predict", content=body(GOOD))
    assert (answer.status, json.loads(answer.content)["outputs"]) == ("200 OK", 7)
    assert answer.headers["Content-Length"] == str(len(answer.content))
