"""HTTP/1.1 on the wire: what is sent, which connections are used again, and how odd answers are read."""

import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import certifi
import pytest
import trustme

from platforms import PlatformError, PlatformUnavailable, connections
from platforms.connections import Connections, Exchange
from platforms.wire import Answer, ask, target_of
from tests.helpers.makers import FLOWER, K8S, call
from tests.helpers.stub import Stub, answers, head, says, sends

Ask = Callable[..., tuple[Answer, bytes]]


@pytest.fixture
def asked(stub: Stub) -> Ask:
    """Asks the stub over connections that are kept: the answer, and all of its body."""
    kept = Connections()

    def send(path: str = "/", *, method: str = "GET", body: bytes | None = None, **headers: str) -> Any:
        exchange = Exchange(time.monotonic() + 10)
        answer = ask(kept, exchange, method, f"{stub.url}{path}", headers, body)
        return answer, b"".join(answer.pieces())

    return send


WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
ODD = {
    "an answer before the answer": b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE,
    "hints before the answer": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + WHOLE,
    "no reason": WHOLE.replace(b" OK", b""),
    "HTTP/1.0": WHOLE.replace(b"1.1", b"1.0"),
    "a body that ends with the connection": b"HTTP/1.1 200 OK\r\n\r\nhi",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1;x=y\r\ni\r\n0\r\n\r\n",
    "chunks, and a header after": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nA: b\r\n\r\n",
    "garbage after the answer": WHOLE + b"garbage",
    "another answer after the answer": WHOLE + WHOLE.replace(b"200 OK", b"500 No").replace(b"hi", b"no"),
}


@pytest.mark.parametrize("how", ODD)
def test_an_odd_answer_is_read(stub: Stub, asked: Ask, how: str) -> None:
    stub.script("GET /", sends(ODD[how]))
    answer, body = asked()
    assert (answer.status, body) == (200, b"hi")
    assert not {"link", "a"} & answer.headers.keys()


@pytest.mark.parametrize("packed", [b"not gzip at all", b"\x1f\x8b\x08\x00broken"])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
def test_an_answer_that_cannot_be_unpacked_is_an_error(stub: Stub, packed: bytes, coding: str) -> None:
    stub.script(K8S.route, says(packed, content_type="application/json", content_encoding=coding))
    with pytest.raises(PlatformError, match="broke off"):
        K8S.make(stub.address).predict(FLOWER, call())


def test_a_header_said_twice_has_both(stub: Stub, asked: Ask) -> None:
    stub.script("GET /", sends(b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 0\r\n\r\n"))
    assert asked()[0].headers == {"x-a": "1, 2", "content-length": "0"}


def test_a_head_that_does_not_end_is_an_error(stub: Stub) -> None:
    stub.script(K8S.route, sends(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1_000_000))
    with pytest.raises(PlatformError, match="broke off"):
        K8S.make(stub.address).predict(FLOWER, call())


def test_a_request_is_one_piece_and_says_its_length(stub: Stub, asked: Ask) -> None:
    stub.script("POST /a?b=c", answers())
    asked("/a?b=c", method="POST", body=b"{}", Accept="application/json")
    asked("/a?b=c", method="POST")
    first, second = stub.received
    assert first.headers == {
        "host": stub.address,
        "accept": "application/json",
        "accept-encoding": "identity",
        "content-length": "2",
    }
    assert (first.body, second.headers["content-length"]) == (b"{}", "0")


def test_a_body_of_megabytes_arrives(stub: Stub, asked: Ask) -> None:
    stub.script("POST /", answers())
    asked(method="POST", body=b"x" * 20_000_000)
    assert len(stub.received[0].body) == 20_000_000


def test_a_connection_is_used_again(stub: Stub, asked: Ask) -> None:
    stub.script("GET /", says(b"hi"))
    for _ in range(5):
        asked()
    assert stub.connections == 1


@pytest.mark.parametrize(
    "how",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
        WHOLE + b"garbage",
        WHOLE + WHOLE,
        WHOLE.replace(b"1.1", b"1.0"),
    ],
)
def test_a_connection_that_may_not_be_used_again_is_closed(stub: Stub, asked: Ask, how: bytes) -> None:
    def step(visit: Any) -> None:  # leaves it open
        visit.read_body()
        visit.send(how)

    stub.script("GET /", step)
    for _ in range(2):
        assert asked()[1] == b"hi"
    assert stub.connections == 2


def test_a_body_that_was_not_read_takes_its_connection_with_it(stub: Stub) -> None:
    stub.script("GET /", says(b"hi"))
    kept = Connections()
    for _ in range(2):
        ask(kept, Exchange(time.monotonic() + 10), "GET", stub.url, {}, None).close()
    assert stub.connections == 2


def test_connections_that_wait_for_too_long_are_closed(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.script("GET /", says(b"hi"))
    kept = Connections()
    open_at_once = [ask(kept, Exchange(time.monotonic() + 10), "GET", stub.url, {}, None) for _ in range(3)]
    for answer in open_at_once[:2]:
        assert list(answer.pieces()) == [b"hi"]
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.0)
    assert list(open_at_once[2].pieces()) == [b"hi"]
    assert [len(idle) for idle in kept._idle.values()] == [1]


def test_the_connections_of_many_origins_are_not_all_kept() -> None:
    kept = Connections()
    stubs = [Stub() for _ in range(connections.ORIGINS + 2)]
    for stub in stubs:
        stub.script("GET /", says(b"hi"))
        list(ask(kept, Exchange(time.monotonic() + 10), "GET", stub.url, {}, None).pieces())
        stub.close()
    assert len(kept._idle) == connections.ORIGINS


@pytest.mark.parametrize(
    ("url", "origin", "host", "path"),
    [
        ("http://a.example", ("http", "a.example", 80), "a.example", "/"),
        ("http://a.example:80/b?c=d#e", ("http", "a.example", 80), "a.example", "/b?c=d"),
        ("http://a.example:8080/ä b", ("http", "a.example", 8080), "a.example:8080", "/%C3%A4%20b"),
        ("https://A.example/", ("https", "a.example", 443), "a.example", "/"),
        ("http://[::1]:8080/x", ("http", "::1", 8080), "[::1]:8080", "/x"),
        ("http://bücher.example", ("http", "xn--bcher-kva.example", 80), "xn--bcher-kva.example", "/"),
    ],
)
def test_an_address_is_said_as_it_should_be(url: str, origin: tuple[str, str, int], host: str, path: str) -> None:
    target = target_of(url)
    assert (target.origin, target.host, target.path, target.authorization) == (origin, host, path, "")


def test_a_name_and_a_password_in_an_address_are_sent(stub: Stub) -> None:
    stub.script("GET /", answers())
    url = stub.url.replace("://", "://me:p%40ss@")
    ask(Connections(), Exchange(time.monotonic() + 10), "GET", url, {}, None)
    assert stub.received[0].headers["authorization"] == "Basic bWU6cEBzcw=="
    assert stub.received[0].headers["host"] == stub.address


@pytest.mark.parametrize("value", ["a\r\nX-Injected: 1", "a\nb", "a\rb", "a\0b", "a\u2028b"])
def test_a_header_with_a_line_break_is_never_sent(stub: Stub, value: str) -> None:
    stub.script(K8S.route, answers({}))
    platform = K8S.make(stub.address)
    with pytest.raises(PlatformError, match="settings"):
        platform.predict(FLOWER, call(traceparent=value))
    assert not stub.received


@pytest.fixture
def authority(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[trustme.CA]:
    """One that is trusted here, as a company's own is."""
    authority = trustme.CA()
    bundle = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    connections.tls_context.cache_clear()
    yield authority
    connections.tls_context.cache_clear()


def over_tls(stub: Stub, authority: trustme.CA, name: str) -> None:
    """From now on the stub shows a certificate for this name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    stub.wrap = lambda sock: context.wrap_socket(sock, server_side=True)


def test_a_platform_is_asked_over_tls_and_its_connection_used_again(stub: Stub, authority: trustme.CA) -> None:
    over_tls(stub, authority, "127.0.0.1")
    stub.script("GET /", says(b"hi"))
    kept = Connections()
    for _ in range(3):
        answer = ask(kept, Exchange(time.monotonic() + 10), "GET", f"https://{stub.address}/", {}, None)
        assert b"".join(answer.pieces()) == b"hi"
    assert stub.connections == 1
    kept.close()


def test_an_own_authority_is_trusted_in_addition_to_the_public_ones(authority: trustme.CA) -> None:
    public = ssl.create_default_context(cafile=certifi.where()).get_ca_certs(binary_form=True)
    trusted = connections.tls_context().get_ca_certs(binary_form=True)
    own = ssl.PEM_cert_to_DER_cert(authority.cert_pem.bytes().decode())
    assert len(public) > 50
    assert {own, *public} <= set(trusted)


@pytest.mark.parametrize("wrong", ["authority", "name"])
def test_a_certificate_that_nobody_vouches_for_is_refused_before_anything_is_sent(
    stub: Stub, authority: trustme.CA, wrong: str
) -> None:
    issuer = trustme.CA() if wrong == "authority" else authority
    over_tls(stub, issuer, "other.example" if wrong == "name" else "127.0.0.1")
    exchange = Exchange(time.monotonic() + 10)
    with pytest.raises(Exception, match="(?i)certificate"):
        ask(Connections(), exchange, "GET", f"https://{stub.address}/", {}, None)
    assert not exchange.sent
    assert not stub.received


def test_who_closes_in_the_middle_of_a_large_request_may_have_said_why(stub: Stub) -> None:
    def step(visit: Any) -> None:
        visit.send(head(413, {"Content-Length": "0", "Connection": "close"}))
        visit.sock.shutdown(1)
        visit.read_body()
        visit.keep_alive = False

    stub.script(K8S.route, step)
    with pytest.raises(PlatformError) as error:
        K8S.make(stub.address).predict(FLOWER, call())
    assert not isinstance(error.value, PlatformUnavailable)
