"""Requests that are made to do harm, byte by byte, at the real web server: each gets its 4xx, and it goes on."""

import http.client
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from predictions.models import Task
from tests.helpers.servers import Server
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
PRODUCTION = {
    "ENVIRONMENT": "production",
    "SECRET_KEY": "8Zc1vQp0Jx5mWn3Rk7Ty2Lb9Hs4Gd6FfAaEeUuIiOoPp-test-key",
    "ALLOWED_HOSTS": "agent.example.com",
    "API_KEYS": "caller",
    "LOCAL_PREDICTOR": "tests.helpers.predictors:predict",
}


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def code(self) -> str:
        return str(json.loads(self.body).get("code"))


@pytest.fixture
def web(serve: Callable[..., Server]) -> Iterator[Server]:
    web = serve("web", **PRODUCTION)
    yield web
    answer = send(web, request("GET", "/live"))
    assert (answer.status, answer.body) == (200, b'{"message":"API OK"}')
    assert "Traceback" not in web.output(), web.output()


def request(
    method: str, path: str, body: bytes | None = None, /, *, host: str = "agent.example.com", **headers: str
) -> bytes:
    """The bytes of a request with a caller's key; `headers` are named with `_` for `-`."""
    fields = {"Host": host, "apikey": "caller", "Content-Type": "application/json"}
    if body is not None:
        fields["Content-Length"] = str(len(body))
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + (body or b"")


def send(web: Server, data: bytes, *, then_close: bool = False) -> Answer:
    with socket.create_connection(("127.0.0.1", web.port), timeout=60) as sock:
        return exchange(sock, data, then_close=then_close)


def exchange(sock: socket.socket, data: bytes, *, then_close: bool = False) -> Answer:
    sock.sendall(data)
    if then_close:
        sock.shutdown(socket.SHUT_WR)
    response = http.client.HTTPResponse(sock)
    response.begin()
    return Answer(response.status, response.headers, response.read())


def post(web: Server, body: bytes, path: str = "/v1/predict") -> Answer:
    return send(web, request("POST", path, body))


def prediction(inputs: bytes = b"{}", model_name: bytes = b'"m"', more: bytes = b"") -> bytes:
    return b'{"model_name": ' + model_name + b', "inputs": ' + inputs + more + b"}"


BAD_BODIES = {
    "no body": b"",
    "no JSON": b"{",
    "an array": b"[]",
    "a text": b'"x"',
    "null": b"null",
    "100,000 arrays in each other": prediction(b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "100,000 objects in each other": prediction(b'{"x":' * 100_000 + b"0" + b"}" * 100_000),
    "200 arrays in each other": prediction(b'{"x": ' + b"[" * 200 + b"]" * 200 + b"}"),
    "100,000 arrays, unclosed": b"[" * 100_000,
    "an infinite number": prediction(b'{"x": 1e999999}'),
    "NaN": prediction(b'{"x": NaN}'),
    "Infinity": prediction(b'{"x": -Infinity}'),
    "a million digits": prediction(b'{"x": ' + b"9" * 1_000_000 + b"}"),
    "two million objects": prediction(b'{"x": [' + b"{}," * 2_000_000 + b"0]}"),
    "Latin-1": prediction('{"x": "ü"}'.encode("latin-1")),
    "half a surrogate pair in bytes": prediction(b'{"x": "\xed\xa0\x80"}'),
    "UTF-16": prediction().decode().encode("utf-16"),
    "a NUL in model_name": prediction(model_name=b'"a\\u0000b"'),
    "half a surrogate pair in model_name": prediction(model_name=b'"\\ud800"'),
    "a NUL in model_version": prediction(more=b', "model_version": "\\u0000"'),
    "half a surrogate pair in model_version": prediction(more=b', "model_version": "\\udfff"'),
    "a number as model_name": prediction(model_name=b"1"),
    "an object as model_name": prediction(model_name=b"{}"),
    "blanks as model_name": prediction(model_name=b'"  "'),
    "a long model_name": prediction(model_name=b'"' + b"x" * 100_000 + b'"'),
    "an array as inputs": prediction(b"[]"),
}


def test_bad_bodies_are_refused_on_every_route_that_takes_one(web: Server) -> None:
    wrong = {}
    for path in ("/v1/predict", "/async/v1/predict", "/v1/generate"):
        for name, body in BAD_BODIES.items():
            answer = post(web, body, path)
            if (answer.status, answer.code) != (400, "invalid_request") or len(answer.body) > 400:
                wrong[f"{path} {name}"] = (answer.status, answer.body[:400])
    assert not wrong
    assert not Task.objects.exists()


def test_strange_bodies_that_are_well_formed_are_taken_and_kept(web: Server) -> None:
    inputs = (
        b'{"answer": ["\\u0000", "\\ud800", "\xf0\x9f\x99\x82", 1e308, ' + b"9" * 4000 + b', {"": {}}], "a": 1, "a": 2}'
    )
    answer = post(web, prediction(inputs, model_name='"\u202e\u2066ü/../m"'.encode()))
    assert answer.status == 200
    task = json.loads(answer.body)
    assert task["outputs"] == ["\0", "\ud800", "🙂", 1e308, int("9" * 4000), {"": {}}]
    kept = Task.objects.get()
    assert (kept.outputs, kept.inputs["a"] if kept.inputs else None) == (task["outputs"], 2)
    assert json.loads(send(web, request("GET", f"/task/{task['id']}")).body)["outputs"] == task["outputs"]


def test_bodies_that_are_too_large_or_lie_about_their_length(web: Server) -> None:
    head = request("POST", "/v1/predict")[:-2]
    large = b"1" * (20 * MIB)
    chunk = b"%x\r\n%b\r\n" % (MIB, b"1" * MIB)
    expected: dict[bytes, tuple[int, str]] = {
        request("POST", "/v1/predict", Content_Length=str(21 * MIB)): (413, "body_too_large"),
        request("POST", "/v1/predict", large + b"1"): (413, "body_too_large"),
        request("POST", "/v1/predict", Content_Length="9" * 30): (413, "body_too_large"),
        head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 21 + b"0\r\n\r\n": (413, "body_too_large"),
        head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 25: (413, "body_too_large"),
        head + b"Transfer-Encoding: chunked\r\n\r\n" + b"fffffffffffffff\r\n1": (400, "invalid_request"),
        head + b"Transfer-Encoding: chunked\r\n\r\n" + b"-1\r\n1": (400, "invalid_request"),
        head + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}": (400, "invalid_request"),
        head + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n": (400, "invalid_request"),
        head + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": (400, "invalid_request"),
        head + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n": (400, "invalid_request"),
        head + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}": (400, "invalid_request"),
        request("POST", "/v1/predict", Content_Length="-1"): (400, "invalid_request"),
        request("POST", "/v1/predict", Content_Length="+2") + b"{}": (400, "invalid_request"),
        request("POST", "/v1/predict", Content_Length="0x2") + b"{}": (400, "invalid_request"),
        request("POST", "/v1/predict", Content_Length="1_0") + b"{}": (400, "invalid_request"),
        request("POST", "/v1/predict", Content_Length="1000") + prediction(): (400, "invalid_request"),
    }
    wrong = {}
    for data, answered in expected.items():
        answer = send(web, data, then_close=True)
        if (answer.status, answer.code) != answered:
            wrong[data[100:300]] = answer
    assert not wrong
    assert not Task.objects.exists()


def test_a_request_behind_another_is_answered_by_itself(web: Server) -> None:
    """What follows a body's length is another request of the same caller, with a key of its own or none."""
    data = request("POST", "/v1/predict", prediction()) + request("POST", "/pause", b"", apikey="", Connection="close")
    with socket.create_connection(("127.0.0.1", web.port), timeout=60) as sock:
        sock.sendall(data)
        said = b"".join(iter(lambda: sock.recv(65536), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", said) == [b"200", b"401"]


PATHS = {
    "//v1/predict": 404,
    "/v1//predict": 404,
    "/v1/predict//": 404,
    "/V1/predict": 404,
    "/v1/predict;x=1": 404,
    "/v1/%2e%2e/v1/predict": 404,
    "/v1/../v1/predict": 404,
    "/task/../admin/": 404,
    "/task/%2e%2e%2fadmin": 404,
    "/task/%00": 404,
    "/task/a%00b": 404,
    "/task/%ff%fe": 404,
    "/task/" + "x" * 4000: 404,
    "/task/" + "x" * 5000: 414,
    "/task/x?q=%00": 400,
    "/task/x?" + "a&" * 1900: 404,
    "/static/../config/settings.py": 404,
    "/static/%2e%2e/config/settings.py": 404,
    "/static/..%5cconfig": 404,
    "/static//etc/passwd": 404,
    "/media/../../db.sqlite3": 404,
    "/media/%2e%2e/%2e%2e/manage.py": 404,
    "/media/uploads/00/%00": 404,
    "/.env": 404,
    "/.git/config": 404,
    "/%": 404,
    "/%zz": 404,
    "http://evil.example/task/x": 404,
    "*": 400,
}


def test_paths_that_lead_nowhere(web: Server) -> None:
    wrong = {}
    for path, status in PATHS.items():
        answer = send(web, request("GET", path))
        if answer.status != status or not json.loads(answer.body)["error"]:
            wrong[path[:60]] = answer
    assert not wrong


def test_unsupported_methods(web: Server) -> None:
    for method in ("TRACE", "FOO", "PROPFIND", "DELETE", "PATCH"):
        answer = send(web, request(method, "/v1/predict"))
        assert (answer.status, answer.code) == (405, "method_not_allowed"), method
        assert answer.headers["Allow"] == "POST, OPTIONS"
    for method in ("get", "G ET", "GÉT", "X" * 100, "CONNECT"):
        assert send(web, request(method, "/v1/predict")).status in (400, 405), method


def test_foreign_hosts(web: Server) -> None:
    for host in ("evil.example", "agent.example.com.evil.example", "agent.example.com:80@evil", "", "[::1", "a\tb"):
        answer = send(web, request("GET", "/task/x", host=host))
        assert (answer.status, answer.code) == (400, "invalid_request"), host
    two = request("GET", "/task/x").replace(b"apikey", b"Host: evil.example\r\napikey")
    assert send(web, two).status == 400
    forwarded = request(
        "GET", "/task/x", X_Forwarded_Host="evil.example", X_Forwarded_Proto="https", Forwarded="host=evil"
    )
    assert send(web, forwarded).code == "not_found"
    assert b"evil" not in send(web, request("GET", "/admin/", X_Forwarded_Host="evil.example")).headers.as_bytes()


def test_headers_that_are_too_many_too_long_or_none(web: Server) -> None:
    head = request("GET", "/task/x")[:-2]
    expected = {
        head + b"".join(b"X-%d: y\r\n" % number for number in range(200)) + b"\r\n": (431, "headers_too_large"),
        head + b"X: " + b"y" * 10_000 + b"\r\n\r\n": (431, "headers_too_large"),
        head + b"X-Request-ID: " + b"y" * 10_000 + b"\r\n\r\n": (431, "headers_too_large"),
        head + b"X: a\x00b\r\n\r\n": (400, "invalid_request"),
        head + b"X: a\rb\r\n\r\n": (400, "invalid_request"),
        head + b"X Y: a\r\n\r\n": (400, "invalid_request"),
        head + b": a\r\n\r\n": (400, "invalid_request"),
        head + b"X: a\r\n b\r\n\r\n": (400, "invalid_request"),
        head + b"no colon\r\n\r\n": (400, "invalid_request"),
        b"GET /task/x HTTP/9.9\r\n\r\n": (400, "invalid_request"),
        b"GET /task/x\r\n\r\n": (400, "invalid_request"),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n": (400, "invalid_request"),  # TLS
        b"\x00" * 5000 + b"\r\n\r\n": (414, "uri_too_long"),
    }
    wrong = {}
    for data, answered in expected.items():
        answer = send(web, data)
        if (answer.status, answer.code) != answered:
            wrong[data[-100:]] = answer
    assert not wrong


def test_a_request_id_is_taken_over_only_if_it_is_harmless(web: Server) -> None:
    assert send(web, request("GET", "/live", X_Request_ID="abc-1")).headers["X-Request-ID"] == "abc-1"
    for given in ("x" * 129, "x" * 5000, "a b", "<script>", "é", "a;b", '"', "${jndi:ldap://evil}", "%0d%0aX: y", ""):
        answer = send(web, request("GET", "/live", X_Request_ID=given))
        assert answer.status == 200
        assert len(answer.headers["X-Request-ID"]) == 32, given
    split = request("GET", "/live", X_Request_ID="a\r\nX-Evil: 1")
    assert send(web, split).headers["X-Evil"] is None


def test_a_users_name_may_be_any_bytes_and_never_more_than_a_name(web: Server) -> None:
    for given in (
        "\udcff\udcfe",
        "ü🙂",
        "x" * 5000,
        "<script>alert(1)</script>",
        "'; DROP TABLE predictions_task; --",
        "\x01\x7f",
    ):
        Task.objects.all().delete()
        answer = send(web, request("POST", "/v1/predict", prediction(), UID=given))
        if answer.status == 400:
            assert not given.isprintable()
        else:
            assert answer.status == 200, given
            assert len(Task.objects.get().user_id) <= 200


def peak_mb(web: Server) -> float:
    """The most memory that any process of the server has held, in MB."""
    found = []
    for path in Path("/proc").glob("[0-9]*/status"):
        lines = dict(line.split(":\t", 1) for line in path.read_text().splitlines() if ":\t" in line)
        if lines["PPid"].strip() == str(web.process.pid):
            found.append(float(lines["VmHWM"].split()[0]) / 1024)
    return max(found)


def test_callers_without_a_key_cannot_fill_the_memory(web: Server) -> None:
    before = peak_mb(web)
    head = request("POST", "/v1/predict", apikey="nobody")[:-2] + b"Transfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%b\r\n" % (MIB, b"1" * MIB)
    sockets = [socket.create_connection(("127.0.0.1", web.port), timeout=60) for _ in range(40)]
    try:
        for sock in sockets:
            assert exchange(sock, head).status == 401  # before its body has come
        for sock in sockets:
            sock.setblocking(False)
            with suppress(OSError):
                sock.sendall(chunk * 20)
    finally:
        for sock in sockets:
            sock.close()
    print(f"40 bodies of 20 MB without a key: {before:.0f} → {peak_mb(web):.0f} MB")
    assert peak_mb(web) - before < 100


def test_a_body_of_many_small_things_takes_bounded_memory(serve: Callable[..., Server]) -> None:
    web = serve("web", **{**PRODUCTION, "LOCAL_PREDICTOR": "examples.iris:predict"})
    before = peak_mb(web)
    for item in (b"{},", b"[],", b'{"":0},', b'"ab",', b"[5.1,3.5,1.4,0.2],"):
        body = prediction(b'{"x": [' + item * (19 * MIB // len(item)) + b"0]}")
        assert post(web, body).status == 400
        print(f"19 MB of {item!r}: {before:.0f} → {peak_mb(web):.0f} MB")
    assert peak_mb(web) - before < 700


def test_slow_senders_delay_no_other_caller(web: Server) -> None:
    """Hundreds who begin a request and never end it."""
    sockets = [socket.create_connection(("127.0.0.1", web.port), timeout=60) for _ in range(300)]
    try:
        for sock in sockets:
            sock.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: agent.example.com\r\nX-")
        assert post(web, prediction()).status == 200
    finally:
        for sock in sockets:
            sock.close()


def test_connections_that_break_in_the_middle_leave_nothing_behind(web: Server) -> None:
    data = request("POST", "/async/v1/predict", prediction())
    for length in range(0, len(data), 7):
        with socket.create_connection(("127.0.0.1", web.port), timeout=60) as sock:
            sock.sendall(data[:length])
    until(lambda: send(web, request("GET", "/v1/queue_size")).status == 200)
    time.sleep(0.2)
    assert not Task.objects.exists()


def test_the_server_hides_its_software(web: Server) -> None:
    for data in (request("GET", "/live"), request("GET", "/nowhere"), b"x\r\n\r\n", request("GET", "/admin/login/")):
        answer = send(web, data)
        assert not any(digit in answer.headers.get("Server", "") for digit in "0123456789")
        assert answer.headers["X-Powered-By"] is None
