"""Connections to platforms: urllib3's, which a Call limits in time and can stop.

    Connections ──► a urllib3 pool for each origin ──► Connection ──► Answer ──► _Incoming ──► socket

urllib3 connects, secures, keeps and closes connections, and decompresses; http.client parses. A socket's own timeout
starts again with every packet, so a platform that sends a byte a second never times out. Here each connect, send and
read gets only the time that the call has left, and `Call.stop` wakes a waiting thread from any other thread.
"""

import io
import re
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import lru_cache
from http.client import HTTPException, HTTPResponse, IncompleteRead
from ssl import SSLContext
from typing import Any, cast
from urllib.parse import unquote

import certifi
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, LocationParseError
from urllib3.util import Url, create_urllib3_context, parse_url
from urllib3.util.connection import create_connection
from urllib3.util.ssl_ import is_ipaddress

from platforms.base import Call

BROKEN = (OSError, HTTPException, HTTPError)
"""What breaks a request: a refused or lost connection, a timeout, an answer that is not HTTP."""
DEFAULT_PORTS = {"http": 80, "https": 443}
CONNECT_TIMEOUT_SECONDS = 5.0
IDLE_SECONDS = 4.0
"""Shorter than servers keep idle connections (uvicorn 5 s, KServe 65 s), so that no request meets a closing one."""
MAX_IDLE = 512
"""Idle connections kept for each origin."""
MAX_ORIGINS = 8
"""Origins whose idle connections are kept."""
_LINE_BREAK = re.compile(r"[\r\n\0]")
PIECE_BYTES = 64 * 1024
MAX_RECEIVED_BYTES = 256 * 1024
"""Limit for the headers, and for each piece of a body with its chunk sizes, trailers and gzip headers."""


class InvalidRequest(ValueError):
    """The settings make no valid request: a malformed URL, or a header with a line break."""


@lru_cache(maxsize=1024)
def url_of(text: str) -> Url:
    """The parsed URL, encoded for a request and without a default port. Raises InvalidRequest."""
    try:
        url = parse_url(text)
    except LocationParseError as error:
        raise InvalidRequest("malformed URL") from error
    if url.scheme not in DEFAULT_PORTS or not url.host:
        raise InvalidRequest("not an HTTP URL")
    return url._replace(port=None) if url.port == DEFAULT_PORTS[url.scheme] else url


class Connection(HTTPConnection):
    """One call uses it at a time. Its methods raise BROKEN, UnicodeError for an invalid host, and as Call.check."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.sent = False
        """Whether the whole request has left. Until then the platform cannot have run it."""
        self._pool: HTTPConnectionPool | None = None
        self._call: Call | None = None
        self._lock = threading.Lock()
        self._idle_since = 0.0

    def ask(self, call: Call, method: str, url: Url, headers: Mapping[str, str], body: bytes | None) -> "Answer":
        """Sends a request and waits for the headers of its answer.

        Raises InvalidRequest too. After an error the connection is closed.
        """
        self.sent = False
        try:
            request = _written(method, url, headers, body)
            self.use_for(call)
            if self.sock is None:
                self.connect()
            with suppress(BrokenPipeError):  # a platform that closes before it has read everything may have said why
                self.limited_socket().sendall(request)
                self.sent = True
            return Answer(self, method)
        except BaseException:
            self.release(reusable=False)
            raise

    def use_for(self, call: Call | None) -> None:
        """Puts it under this call's deadline and stop instead of the previous call's. Raises as Call.on_stop."""
        if call is not None:
            call.on_stop(self._wake)
        with self._lock:
            previous, self._call = self._call, call
        if previous is not None:
            previous.forget(self._wake)

    def release(self, *, reusable: bool) -> None:
        """Ends the call's use: keeps the connection in its pool, or closes it."""
        self.use_for(None)
        pool, self._pool = self._pool, None
        if reusable and pool is not None:
            self._idle_since = time.monotonic()
            pool._put_conn(self)
        else:
            self.close()

    def limited_socket(self) -> Any:
        """The socket, with a timeout for one send or read."""
        self.sock.settimeout(self._remaining())
        return self.sock

    def _remaining(self, at_most: float = float("inf")) -> float:
        """Seconds for the next step, more than 0. Raises as Call.check."""
        call = cast(Call, self._call)
        call.check()
        return call.remaining(at_most) or 0.001

    def _wake(self) -> None:
        """Ends the wait of another thread. A late stop of an earlier call changes nothing."""
        with self._lock:
            sock = self.sock
            if self._call is not None and self._call.reason is not None and sock is not None:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    # --- called by urllib3

    @property
    def is_connected(self) -> bool:
        return self.sock is not None and time.monotonic() - self._idle_since < IDLE_SECONDS and self._is_quiet()

    def _is_quiet(self) -> bool:
        """Whether nothing has arrived. urllib3's own check polls, which costs a turn of gevent's loop."""
        self.sock.settimeout(0)
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except OSError as error:
            return isinstance(error, BlockingIOError)
        return False

    def _new_conn(self) -> socket.socket:
        """Tries the host's addresses in order. urllib3's own version looks a name up without a time limit."""
        failure = OSError("the host has no address")
        for address in _addresses_of(self._dns_host, self._remaining(CONNECT_TIMEOUT_SECONDS)):
            try:
                seconds = self._remaining(CONNECT_TIMEOUT_SECONDS)
                return create_connection((address, self.port), seconds, socket_options=self.socket_options)
            except OSError as error:
                failure = error
        raise failure


class SecureConnection(Connection, HTTPSConnection):
    """A Connection over TLS."""

    def _is_quiet(self) -> bool:
        return HTTPSConnection.is_connected.fget(self)  # type: ignore[attr-defined,no-any-return]


class Answer(HTTPResponse):
    """An answer whose headers have arrived."""

    def __init__(self, connection: Connection, method: str) -> None:
        self._incoming = _Incoming(connection)
        super().__init__(cast(socket.socket, self._incoming), method=method)
        self.begin()
        while self.status < 200:  # an interim answer; http.client skips only `100 Continue`
            self.headers = None  # type: ignore[assignment]
            self.begin()
        self._is_read = False
        self._decoded: urllib3.HTTPResponse | None = None
        if self.getheader("content-encoding"):
            headers = urllib3.HTTPHeaderDict(self.getheaders())
            self._decoded = urllib3.HTTPResponse(self, headers, self.status, preload_content=False)

    def next_piece(self) -> bytes:
        """The next piece of the body as soon as it arrives, decompressed; empty at the end."""
        self._incoming.received_bytes = 0
        piece = (self if self._decoded is None else self._decoded).read1(PIECE_BYTES)
        if not piece and self.length:
            raise IncompleteRead(b"", self.length)
        self._is_read = not piece
        return piece

    @property
    def connection_is_reusable(self) -> bool:
        """Whether its connection may carry another request.

        Not after a 500: uvicorn closes its connection a moment later, when the next request may be on its way.
        """
        return self._is_read and not self.will_close and self.status != 500


class _Incoming(io.RawIOBase):
    """Stands in for the socket in http.client: limits the time of each read, and the bytes of a head or a piece."""

    def __init__(self, connection: Connection) -> None:
        self.received_bytes = 0
        self._connection = connection

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.received_bytes > MAX_RECEIVED_BYTES:
            raise ConnectionError("the headers, or what surrounds a piece of the body, are too long")
        count: int = self._connection.limited_socket().recv_into(buffer)
        self.received_bytes += count
        return count


class Connections:
    """The connections to one platform, shared by all threads or greenlets of a process.

    urllib3's own `urlopen` would repeat requests and follow redirects, and has no place for a call.
    """

    def __init__(self) -> None:
        self._pool_of = lru_cache(maxsize=MAX_ORIGINS)(_new_pool)

    def take(self, url: Url) -> Connection:
        """An idle connection, or a new one that connects when it sends. Its `release` gives it back."""
        pool = self._pool_of(url.scheme, url.host, url.port)
        connection = cast(Connection, pool._get_conn())
        connection._pool = pool
        return connection


def _new_pool(scheme: str, host: str, port: int | None) -> HTTPConnectionPool:
    pool: HTTPConnectionPool
    if scheme == "https":
        pool = HTTPSConnectionPool(host, port, maxsize=MAX_IDLE, ssl_context=tls_context())
        pool.ConnectionCls = SecureConnection
    else:
        pool = HTTPConnectionPool(host, port, maxsize=MAX_IDLE)
        pool.ConnectionCls = Connection
    return pool


@lru_cache(maxsize=1)
def tls_context() -> SSLContext:
    """Trusts the public authorities, and the system's or SSL_CERT_FILE's. Made once because reading them is slow."""
    context = create_urllib3_context()
    context.load_verify_locations(certifi.where())
    context.load_default_certs()
    return context


def _addresses_of(host: str, timeout_seconds: float) -> list[str]:
    """The host's IP addresses. Another thread looks up a name, because the resolver takes no time limit.

    Raises OSError, and UnicodeError for an invalid name.
    """
    if is_ipaddress(host):
        return [host]
    lookup: Future[list[str]] = Future()

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            lookup.set_result([str(address[0]) for *_, address in found])
        except Exception as error:
            lookup.set_exception(error)

    threading.Thread(target=look_up, name="lookup", daemon=True).start()
    return lookup.result(timeout_seconds)


def _written(method: str, url: Url, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """The bytes of a request. They leave together, which wakes the platform once. Raises InvalidRequest."""
    fields = {"Host": url.netloc or "", "Accept-Encoding": "identity"}
    if url.auth:
        fields["Authorization"] = f"Basic {b64encode(unquote(url.auth).encode()).decode()}"
    if body is not None or method != "GET":
        fields["Content-Length"] = str(len(body or b""))
    fields.update(headers)
    if _LINE_BREAK.search("".join(fields.values())):
        raise InvalidRequest("a header with a line break")
    lines = [f"{method} {url.request_uri} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")
