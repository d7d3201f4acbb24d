"""Every row of the error table, on the real web server."""

import http.client
import json
import socket
from collections.abc import Callable, Iterator

import pytest
import requests

from predictions.models import Task
from tests.helpers.api import assert_error
from tests.helpers.ports import free_port
from tests.helpers.proxy import Proxy
from tests.helpers.servers import Server, database_url
from tests.helpers.slow_platform import SlowPlatform

pytestmark = pytest.mark.slow

Serve = Callable[..., Server]
BODY = {"model_name": "m", "inputs": {"n": 1}}


@pytest.fixture
def web(serve: Serve, slow_platform: SlowPlatform) -> Server:
    return serve(
        "web",
        MAX_REQUEST_BODY="1000",
        MAX_QUEUE_SIZE="1",
        K8SPLUGIN_REQUEST_TIMEOUT="1",
        API_KEYS="caller",
        **slow_platform.environment(),
    )


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.headers["apikey"] = "caller"
        session.trust_env = False
        yield session


def test_the_table(web: Server, session: requests.Session) -> None:
    def predict(**inputs: object) -> requests.Response:
        return session.post(f"{web.url}/v1/predict", json={"model_name": "m", "inputs": inputs}, timeout=30)

    assert predict(n=1).json()["outputs"] == {"n": 1}
    json_type = {"Content-Type": "application/json"}
    for route in ("/v1/predict", "/async/v1/predict"):
        url = f"{web.url}{route}"
        assert_error(session.post(url, data="{", headers=json_type, timeout=30), 400, "invalid_request")
        wrong = session.post(url, json={"model_name": "m"}, timeout=30)
        assert_error(wrong, 400, "invalid_request")
        assert wrong.json()["field"] == "inputs"
        too_large = {"model_name": "m", "inputs": {"x": "y" * 1000}}
        assert_error(session.post(url, json=too_large, timeout=30), 413, "body_too_large")
        chunks = iter([json.dumps(too_large).encode()])
        assert_error(session.post(url, data=chunks, headers=json_type, timeout=30), 413, "body_too_large")
        assert_error(session.post(url, data={"a": "b"}, timeout=30), 415, "unsupported_media_type")
        wrong_method = session.get(url, timeout=30)
        assert_error(wrong_method, 405, "method_not_allowed")
        assert "POST" in wrong_method.headers["Allow"]
        assert_error(requests.post(url, json=BODY, timeout=30), 401, "unauthorized")
        assert_error(requests.post(url, json=BODY, headers={"apikey": "x"}, timeout=30), 401, "unauthorized")
    assert_error(session.post(f"{web.url}/pause", timeout=30), 403, "forbidden")
    assert_error(session.get(f"{web.url}/task/nobody", timeout=30), 404, "not_found")
    assert_error(session.get(f"{web.url}/nowhere", timeout=30), 404, "not_found")
    assert_error(session.get(f"{web.url}/nowhere/", timeout=30), 404, "not_found")

    assert_error(predict(status="400 Bad Request", body='{"error": "send four"}'), 400, "invalid_inputs")
    assert_error(predict(status="500 Error", body='{"error": "at /srv/x on 127.0.0.1:99"}'), 502, "platform_error")
    assert_error(predict(status="503 Busy", body="<html>"), 502, "platform_error")
    assert_error(predict(body="not json"), 502, "platform_error")
    assert_error(predict(sleep=2), 504, "platform_timeout")
    assert_error(predict(status="504 Gateway", body="late"), 504, "platform_timeout")
    assert {task.status for task in Task.objects.all()} == {"succeeded", "failed"}


def test_a_chunked_body_is_read(web: Server, session: requests.Session) -> None:
    chunks = iter([b'{"model_name": "m", ', b'"inputs": {"n": 2}}'])
    headers = {"Content-Type": "application/json"}
    response = session.post(f"{web.url}/v1/predict", data=chunks, headers=headers, timeout=30)
    assert response.json()["outputs"] == {"n": 2}


def test_a_full_queue(web: Server, session: requests.Session) -> None:
    assert session.post(f"{web.url}/async/v1/predict", json=BODY, timeout=30).status_code == 200
    full = session.post(f"{web.url}/async/v1/predict", json=BODY, timeout=30)
    assert_error(full, 429, "queue_full")
    assert int(full.headers["Retry-After"]) > 0
    ready = session.get(f"{web.url}/ready", timeout=30)
    assert (ready.status_code, ready.json()["checks"]["redis"]) == (503, "queue full")


def test_a_platform_that_is_not_there(serve: Serve) -> None:
    web = serve("web", ML_PLATFORM="k8s", K8SPLUGIN_ADDRESS=f"127.0.0.1:{free_port()}", K8SPLUGIN_REQUEST_TIMEOUT="2")
    assert_error(requests.post(f"{web.url}/v1/predict", json=BODY, timeout=30), 502, "platform_error")


def test_a_database_that_is_not_there(serve: Serve, tmp_path: object) -> None:
    if database_url().startswith("sqlite"):
        web = serve("web", DATABASE_URL="sqlite:////nowhere/at/all.sqlite3")
    else:
        proxy = Proxy(f"127.0.0.1:{free_port()}")
        web = serve("web", DATABASE_URL=f"postgres://a:b@{proxy.address}/c")
    assert_error(requests.post(f"{web.url}/v1/predict", json=BODY, timeout=30), 503, "unavailable")
    assert_error(requests.post(f"{web.url}/async/v1/predict", json=BODY, timeout=30), 503, "unavailable")
    assert_error(requests.get(f"{web.url}/task/x", timeout=30), 503, "unavailable")
    assert_error(requests.get(f"{web.url}/admin/", cookies={"sessionid": "x" * 32}, timeout=30), 503, "unavailable")
    ready = requests.get(f"{web.url}/ready", timeout=30)
    assert (ready.status_code, ready.json()["checks"]["database"]) == (503, "does not answer")


def test_a_redis_and_a_record_service_that_are_not_there(serve: Serve) -> None:
    web = serve("web", REDIS_ADDRESS=f"127.0.0.1:{free_port()}")
    assert_error(requests.post(f"{web.url}/async/v1/predict", json=BODY, timeout=30), 503, "unavailable")
    assert requests.post(f"{web.url}/v1/predict", json=BODY, timeout=30).status_code == 200
    alone = serve("web", WEBHOOK_SERVER_ADDRESS=f"127.0.0.1:{free_port()}")
    assert_error(requests.post(f"{alone.url}/v1/predict", json=BODY, timeout=30), 503, "unavailable")


def test_anything_else_is_500_and_logged_with_the_request_id(serve: Serve) -> None:
    web = serve("web", LOCAL_PREDICTOR="tests.helpers.broken_predictor:predict")
    response = requests.post(f"{web.url}/v1/predict", json=BODY, headers={"X-Request-ID": "find-me"}, timeout=30)
    assert_error(response, 500, "internal_error")
    assert "request_id=find-me" in web.output()
    assert "Traceback" in web.output()


def headers(count: int, length: int) -> str:
    """As many headers, Host among them, one of which is as long as this with its name."""
    long = "X-Long: "
    return "Host: x\r\n" + f"{long}{'x' * (length - len(long))}\r\n" + "X-Many: x\r\n" * (count - 2)


@pytest.mark.parametrize(
    ("path", "count", "length", "status"),
    [
        ("/task/x", 100, 8000, 404),
        ("/task/x", 101, 8000, 431),
        ("/task/x", 100, 8200, 431),
        (f"/task/{'x' * 4000}", 100, 8000, 404),
        (f"/task/{'x' * 4096}", 100, 8000, 414),
    ],
)
def test_requests_up_to_the_limits_are_read_and_larger_ones_refused(
    serve: Serve, path: str, count: int, length: int, status: int
) -> None:
    web = serve("web")
    with socket.create_connection(("127.0.0.1", web.port), timeout=30) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\n{headers(count, length)}\r\n".encode())
        response = http.client.HTTPResponse(sock)
        response.begin()
        assert response.status == status


@pytest.mark.parametrize(
    ("request_text", "status", "code"),
    [
        ("nonsense\r\n\r\n", 400, "invalid_request"),
        ("GET /live HTTP/9.9\r\n\r\n", 400, "invalid_request"),
        ("GET /live HTTP/1.1\r\nbad name: x\r\n\r\n", 400, "invalid_request"),
        (f"GET /task/{'x' * 5000} HTTP/1.1\r\nHost: x\r\n\r\n", 414, "uri_too_long"),
        (f"GET /live HTTP/1.1\r\nHost: x\r\nX-Long: {'x' * 9000}\r\n\r\n", 431, "headers_too_large"),
        ("GET /live HTTP/1.1\r\nHost: x\r\n" + "X-Many: x\r\n" * 200 + "\r\n", 431, "headers_too_large"),
        ("POST /v1/predict HTTP/1.1\r\nHost: x\r\nExpect: miracles\r\n\r\n", 417, "invalid_request"),
        ("POST /live HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "invalid_request"),
        ("POST /v1/predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: snow\r\n\r\n", 400, "invalid_request"),
    ],
)  # fmt: skip
def test_input_that_is_not_http_gets_an_error_as_json(serve: Serve, request_text: str, status: int, code: str) -> None:
    web = serve("web")
    with socket.create_connection(("127.0.0.1", web.port), timeout=30) as sock:
        sock.sendall(request_text.encode())
        response = http.client.HTTPResponse(sock)
        response.begin()
        assert (response.status, json.loads(response.read())["code"]) == (status, code)
        assert response.headers["Content-Type"] == "application/json"
        assert sock.recv(1) == b""
