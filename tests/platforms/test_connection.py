"""HTTP on real sockets: the request, the reuse of connections, and odd answers."""

import gzip
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import certifi
import pytest
import trustme

from platforms import Call, PlatformError, PlatformTimeout, PlatformUnavailable, StopReason, connection
from platforms.http import Request
from platforms.k8s import K8s
from tests.helpers.makers import FLOWER, K8S, call, k8s
from tests.helpers.stub import Step, Stub, Visit, answers, head, says, sends

Asked = Callable[..., bytes]


@pytest.fixture
def platform(stub: Stub) -> K8s:
    return k8s(stub.address)


@pytest.fixture
def asked(stub: Stub, platform: K8s) -> Asked:
    """Sends a request to the stub and returns the whole body of an answer with status 200."""

    def send(path: str = "/", *, method: str = "GET", body: Any = None, **headers: str) -> bytes:
        request = Request(method, f"{stub.url}{path}", body, headers)
        with platform.open_once(request, call()) as reply:
            assert reply.status == 200
            return bytes(reply.read(1_000_000))

    return send


WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
GZIP = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"
ODD = {
    "an answer before the answer": b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE,
    "hints before the answer": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + WHOLE,
    "no reason": WHOLE.replace(b" OK", b""),
    "HTTP/1.0": WHOLE.replace(b"1.1", b"1.0"),
    "a body that ends with the connection": b"HTTP/1.1 200 OK\r\n\r\nhi",
    "chunks": CHUNKS + b"1\r\nh\r\n1;x=y\r\ni\r\n0\r\n\r\n",
    "chunks, and a header after": CHUNKS + b"2\r\nhi\r\n0\r\nA: b\r\n\r\n",
    "gzip": GZIP + gzip.compress(b"hi"),
    "gzip in two parts": GZIP + gzip.compress(b"h") + gzip.compress(b"i"),
    "garbage after the answer": WHOLE + b"garbage",
    "another answer after the answer": WHOLE + WHOLE.replace(b"200 OK", b"500 No").replace(b"hi", b"no"),
}


def leaves_open(data: bytes) -> Step:
    """Sends exactly these bytes; the connection stays open for another request."""

    def step(visit: Visit) -> None:
        visit.read_body()
        visit.send(data)

    return step


def without_end(start: bytes, more: bytes) -> Step:
    """Sends `more` repeatedly, as fast as the client reads."""

    def step(visit: Visit) -> None:
        visit.read_body()
        visit.send(start)
        while True:
            visit.send(more * (64 * 1024 // len(more)))

    return step


@pytest.mark.parametrize("how", ODD)
def test_an_odd_answer_is_read(stub: Stub, asked: Asked, how: str) -> None:
    stub.script("GET /", sends(ODD[how]))
    assert asked() == b"hi"


@pytest.mark.parametrize("how", ["garbage after the answer", "another answer after the answer"])
def test_what_follows_an_answer_is_not_taken_for_the_next_one(stub: Stub, asked: Asked, how: str) -> None:
    stub.script("GET /", leaves_open(ODD[how]), says(b"next"))
    assert (asked(), asked()) == (b"hi", b"next")


@pytest.mark.parametrize(
    "step",
    [
        without_end(b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
        without_end(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        without_end(CHUNKS + b"2\r\nhi\r\n1", b"0"),
        without_end(CHUNKS + b"2\r\nhi\r\n2;", b"x"),
        without_end(CHUNKS + b"2\r\nhi\r\n0\r\n", b"X-Trailer: y\r\n"),
        without_end(GZIP + gzip.compress(b"hi"), b"\0"),
        without_end(GZIP, gzip.compress(b"")),
    ],
    ids=["header", "hints", "chunk size", "chunk extension", "trailers", "after gzip", "empty gzip"],
)
def test_a_platform_that_sends_without_end_is_left_long_before_the_deadline(stub: Stub, step: Step) -> None:
    stub.script(K8S.route, step)
    with pytest.raises(PlatformError) as error:
        K8S.make(stub.address, timeout=3600).predict(FLOWER, call(3600))
    assert not isinstance(error.value, PlatformTimeout)
    assert stub.hung_up.wait(5)


@pytest.mark.parametrize("packed", [b"not gzip at all", b"\x1f\x8b\x08\x00broken"])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
def test_an_answer_that_cannot_be_unpacked_is_an_error(stub: Stub, packed: bytes, coding: str) -> None:
    stub.script(K8S.route, says(packed, content_type="application/json", content_encoding=coding))
    with pytest.raises(PlatformError):
        K8S.make(stub.address).predict(FLOWER, call())


def test_a_request_says_its_length_and_accepts_no_packed_answer(stub: Stub, asked: Asked) -> None:
    stub.script("POST /a?b=c", answers())
    asked("/a?b=c", method="POST", body={})
    asked("/a?b=c", method="POST")
    first, second = stub.received
    assert first.headers == {
        "host": stub.address,
        "accept": "application/json",
        "accept-encoding": "identity",
        "user-agent": "serving-agent",
        "content-type": "application/json",
        "content-length": "2",
    }
    assert (first.body, second.headers["content-length"]) == (b"{}", "0")


def test_a_body_of_megabytes_arrives(stub: Stub, asked: Asked) -> None:
    stub.script("POST /", answers())
    asked(method="POST", body="x" * 20_000_000)
    assert len(stub.received[0].body) == 20_000_002


def test_a_connection_is_used_again(stub: Stub, asked: Asked) -> None:
    stub.script("GET /", says(b"hi"))
    for _ in range(5):
        asked()
    assert stub.connections == 1


@pytest.mark.parametrize(
    "data", [WHOLE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), WHOLE.replace(b"1.1", b"1.0")]
)
def test_a_connection_that_may_not_be_used_again_is_closed(stub: Stub, asked: Asked, data: bytes) -> None:
    stub.script("GET /", leaves_open(data))
    for _ in range(2):
        assert asked() == b"hi"
    assert stub.connections == 2


def test_a_body_that_was_not_read_takes_its_connection_with_it(stub: Stub, platform: K8s) -> None:
    stub.script("GET /", says(b"hi"))
    for _ in range(2):
        platform.open_once(Request("GET", stub.url), call()).close()
    assert stub.connections == 2


def test_a_connection_that_idled_is_not_used_again(stub: Stub, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "IDLE_SECONDS", 0.0)
    stub.script("GET /", says(b"hi"))
    for _ in range(2):
        asked()
    assert stub.connections == 2


def test_no_more_than_so_many_idle_connections_are_kept(
    stub: Stub, platform: K8s, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_IDLE", 1)
    stub.script("GET /", says(b"hi"))
    for _ in range(2):
        with ExitStack() as at_once:
            for reply in [at_once.enter_context(platform.open_once(Request("GET", stub.url), call())) for _ in "123"]:
                assert reply.read(100) == b"hi"
    assert stub.connections == 3 + 2


def test_the_connections_of_many_hosts_are_not_all_kept(
    stub: Stub, platform: K8s, monkeypatch: pytest.MonkeyPatch
) -> None:
    stubs = [Stub() for _ in range(connection.MAX_ORIGINS + 1)]
    for one in [*stubs, stubs[0]]:
        one.script("GET /", says(b"hi"))
        with platform.open_once(Request("GET", one.url), call()) as reply:
            reply.read(100)
    assert [one.connections for one in stubs] == [2] + [1] * connection.MAX_ORIGINS
    for one in stubs:
        one.close()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("http://a.example", ("http", "a.example", None, "/")),
        ("http://a.example:80/b?c=d#e", ("http", "a.example", None, "/b?c=d")),
        ("http://a.example:8080/ä b", ("http", "a.example", 8080, "/%C3%A4%20b")),
        ("https://A.example/", ("https", "a.example", None, "/")),
        ("http://[::1]:8080/x", ("http", "[::1]", 8080, "/x")),
        ("http://bücher.example", ("http", "xn--bcher-kva.example", None, "/")),
    ],
)
def test_a_url_is_encoded_for_its_request(text: str, where: tuple[object, ...]) -> None:
    url = connection.url_of(text)
    assert (url.scheme, url.host, url.port, url.request_uri) == where


def test_a_platform_may_have_an_ipv6_address(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        port = listener.getsockname()[1]
        threading.Thread(target=_answer_one, args=(listener,), daemon=True).start()
        assert k8s(f"[::1]:{port}").predict(FLOWER, call()).outputs == {"host": f"[::1]:{port}"}


def _answer_one(listener: socket.socket) -> None:
    sock, _ = listener.accept()
    with sock:
        asked = sock.recv(65536).decode()
        host = asked.partition("Host: ")[2].partition("\r\n")[0]
        sock.sendall(b'HTTP/1.0 200 OK\r\n\r\n{"host": "%b"}' % host.encode())


def test_a_name_and_a_password_in_an_address_are_sent(stub: Stub, platform: K8s) -> None:
    stub.script("GET /", answers())
    url = stub.url.replace("://", "://me:p%40ss@")
    platform.open_once(Request("GET", url), call()).close()
    assert stub.received[0].headers["authorization"] == "Basic bWU6cEBzcw=="
    assert stub.received[0].headers["host"] == stub.address


@pytest.mark.parametrize("value", ["a\r\nX-Injected: 1", "a\r\n folded", "a\nb", "a\rb", "a\0b", "a\u2028b", "€"])
def test_a_header_with_a_line_break_is_never_sent(stub: Stub, value: str) -> None:
    stub.script(K8S.route, answers({}))
    with pytest.raises(PlatformError, match="settings"):
        K8S.make(stub.address).predict(FLOWER, call(traceparent=value))
    assert not stub.received


@pytest.fixture
def authority(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[trustme.CA]:
    """A private authority that SSL_CERT_FILE names."""
    authority = trustme.CA()
    bundle = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    connection.tls_context.cache_clear()
    yield authority
    connection.tls_context.cache_clear()


def over_tls(stub: Stub, authority: trustme.CA, name: str) -> None:
    """Makes the stub show a certificate for this name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    stub.wrap = lambda sock: context.wrap_socket(sock, server_side=True)


def test_a_platform_is_asked_over_tls_and_its_connection_used_again(
    stub: Stub, platform: K8s, authority: trustme.CA
) -> None:
    over_tls(stub, authority, "127.0.0.1")
    stub.script("GET /", says(b"hi"))
    for _ in range(3):
        with platform.open_once(Request("GET", f"https://{stub.address}/"), call()) as reply:
            assert reply.read(100) == b"hi"
    assert stub.connections == 1


def test_a_stopped_call_closes_its_connection_over_tls(stub: Stub, platform: K8s, authority: trustme.CA) -> None:
    def step(visit: Visit) -> None:
        visit.send(head(200))
        visit.wait_until_hung_up()

    over_tls(stub, authority, "127.0.0.1")
    stub.script("GET /", step)
    stopped = call(60)
    with platform.open_once(Request("GET", f"https://{stub.address}/"), stopped) as reply:
        threading.Timer(0.05, stopped.stop, [StopReason.CANCELED]).start()
        with pytest.raises(Exception, match="stopped: canceled"):
            reply.read(100)
    assert stub.hung_up.wait(5)


def test_an_own_authority_is_trusted_in_addition_to_the_public_ones(authority: trustme.CA) -> None:
    public = ssl.create_default_context(cafile=certifi.where()).get_ca_certs(binary_form=True)
    trusted = connection.tls_context().get_ca_certs(binary_form=True)
    own = ssl.PEM_cert_to_DER_cert(authority.cert_pem.bytes().decode())
    assert len(public) > 50
    assert {own, *public} <= set(trusted)


@pytest.mark.parametrize("wrong", ["authority", "name"])
def test_a_certificate_that_nobody_vouches_for_is_refused_before_anything_is_sent(
    stub: Stub, platform: K8s, authority: trustme.CA, wrong: str
) -> None:
    issuer = trustme.CA() if wrong == "authority" else authority
    over_tls(stub, issuer, "other.example" if wrong == "name" else "127.0.0.1")
    with pytest.raises(PlatformUnavailable) as error:
        platform.open_once(Request("GET", f"https://{stub.address}/"), call())
    assert "certificate" in str(error.value.__cause__).lower()
    assert not stub.received


def test_who_closes_in_the_middle_of_a_large_request_may_have_said_why(stub: Stub) -> None:
    def step(visit: Visit) -> None:
        visit.send(head(413, {"Content-Length": "0", "Connection": "close"}))
        visit.sock.shutdown(1)
        visit.read_body()
        visit.keep_alive = False

    stub.script(K8S.route, step)
    with pytest.raises(PlatformError) as error:
        K8S.make(stub.address).predict(FLOWER, call())
    assert not isinstance(error.value, PlatformUnavailable)


class NotingCall(Call):
    """Notes the function that a stop calls."""

    def on_stop(self, close: Callable[[], None]) -> None:
        self.noted = close
        super().on_stop(close)


def test_a_stop_that_comes_late_does_not_break_the_connection_of_the_next_call(stub: Stub, platform: K8s) -> None:
    stub.script("GET /", says(b"hi"))
    old = NotingCall(timeout_seconds=5)
    with platform.open_once(Request("GET", stub.url), old) as reply:
        assert reply.read(100) == b"hi"
    with platform.open_once(Request("GET", stub.url), call()) as reply:
        old.stop(StopReason.CANCELED)
        old.noted()
        assert reply.read(100) == b"hi"
    assert stub.connections == 1


def places(*found: tuple[str, int]) -> list[Any]:
    """In the form of getaddrinfo."""
    return [
        (socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))
        for host, port in found
    ]


def test_the_next_address_is_tried_where_nobody_answers_at_the_first(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def resolve(host: str, *args: Any, **options: Any) -> Any:
        known = places(("::1", 0), ("127.0.0.1", 0))  # the first refuses
        return known if host == "model.example" else real(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    stub.script("POST /v1/predict", answers({"output": 1}))
    assert k8s(f"model.example:{stub.port}").predict(FLOWER, call()).outputs == {"output": 1}
    (asked,) = stub.received
    assert asked.headers["host"] == f"model.example:{stub.port}"


def test_a_resolver_that_hangs_holds_no_call_beyond_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    works_again = threading.Event()

    def hang(*args: Any, **options: Any) -> Any:
        works_again.wait(30)
        return places(("127.0.0.1", 0))

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with pytest.raises(PlatformTimeout):
        k8s("model.example:80").predict(FLOWER, call(0.05))
    assert not works_again.is_set()
    works_again.set()


@pytest.mark.parametrize("host", ["nobody.invalid", f"{'a' * 64}.example"])
def test_a_host_that_cannot_be_found_is_an_error(host: str) -> None:
    with pytest.raises(PlatformError):
        k8s(f"{host}:80").predict(FLOWER, call())
