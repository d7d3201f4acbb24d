"""What urllib3's connections lack: one deadline over a whole exchange, and an end that any thread can bring about.

A socket's own timeout begins anew with every packet, so a server that drips a byte a second is never timed out. Here
every single read and write gets only what is left of the exchange's time.
"""

import http.client
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
import requests.adapters
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.wait import wait_for_read

# Shorter than servers keep idle connections (uvicorn 5 s, KServe 65 s): a request must not meet one that just closes.
IDLE_SECONDS = 4.0
POOLS = 8
"""Origins whose connections are kept."""


class Exchange:
    """One request on the wire: until when it may take, whether all of it has left, and how to end it.

    `deadline` is a time of `time.monotonic()`.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.sent = False
        self.closed = False
        self.connection: _Watched | None = None

    def remaining(self) -> float:
        """Seconds left; TimeoutError when there are none."""
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("the time for this request is over")
        return seconds

    def close(self) -> None:
        """Wakes the thread that waits on the connection, from any other thread."""
        self.closed = True
        if self.connection is not None:
            self.connection.interrupt(self)


_current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


@contextmanager
def watched(exchange: Exchange) -> Iterator[None]:
    """Inside the block this thread's requests belong to the exchange; an answer's body goes on belonging to it."""
    token = _current.set(exchange)
    try:
        yield
    finally:
        _current.reset(token)


class _Paced(io.RawIOBase):
    """What a socket receives, each read within what is left of the exchange's time."""

    def __init__(self, raw: io.RawIOBase, sock: Any, exchange: Exchange) -> None:
        self._raw = raw
        self._sock = sock
        self._exchange = exchange

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._exchange.remaining())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _PacedResponse(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        if exchange := _current.get():
            self.fp = io.BufferedReader(_Paced(self.fp.detach(), sock, exchange))


class _Watched(HTTPConnection):
    response_class = _PacedResponse

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._owner = threading.Lock()
        self._exchange: Exchange | None = None
        self._used_at = time.monotonic()

    @property
    def is_connected(self) -> bool:
        """Whether it may be used again: nothing has come on it since, no farewell either."""
        return self.sock is not None and time.monotonic() - self._used_at < IDLE_SECONDS and self._is_quiet()

    def _is_quiet(self) -> bool:
        self.sock.settimeout(0)
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def connect(self) -> None:
        super().connect()
        self._check_open()

    def request(self, *args: Any, **kwargs: Any) -> None:
        exchange = _current.get()
        with self._owner:
            self._exchange = exchange
        if exchange is not None:
            exchange.connection = self
            self._check_open()
        super().request(*args, **kwargs)
        if exchange is not None:
            exchange.sent = True

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        if exchange := _current.get():
            self.sock.settimeout(exchange.remaining())
        super().send(data)

    def getresponse(self) -> Any:
        response = super().getresponse()
        self._used_at = time.monotonic()
        return response

    def interrupt(self, exchange: Exchange) -> None:
        """Breaks the connection, unless it has been handed to another exchange meanwhile."""
        with self._owner:
            sock = self.sock  # read once: its owner may close it now
            if self._exchange is exchange and sock is not None:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _check_open(self) -> None:
        exchange = _current.get()
        if exchange is not None and exchange.closed:
            raise ConnectionAbortedError("the call was stopped")


class _WatchedTLS(_Watched, HTTPSConnection):
    def _is_quiet(self) -> bool:
        return not wait_for_read(self.sock, timeout=0.0)  # TLS lets nobody peek


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Watched


class _PoolTLS(HTTPSConnectionPool):
    ConnectionCls = _WatchedTLS


class _Adapter(requests.adapters.HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _PoolTLS}
        self._pools: dict[tuple[str, str], Any] = {}

    def get_connection_with_tls_context(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """The pool of an origin; all requests to it have the same settings."""
        scheme, _, rest = request.url.partition("://")
        origin = scheme, rest.partition("/")[0]
        pool = self._pools.get(origin)
        if pool is None or pool.pool is None:  # closed by its manager, which keeps only so many
            pool = super().get_connection_with_tls_context(request, *args, **kwargs)
            if len(self._pools) >= POOLS:
                self._pools.clear()
            self._pools[origin] = pool
        return pool

    def build_response(self, request: Any, answer: Any) -> requests.Response:
        """Without cookies, which nobody here keeps."""
        response = _Answer()
        response.status_code = answer.status
        response.headers = answer.headers
        response.raw = answer
        return response


class _Answer(requests.Response):
    def __init__(self) -> None:
        """What closing and reading it needs; requests' own makes a jar for cookies."""
        self._content: Any = False
        self._content_consumed = False


def new_session() -> requests.Session:
    """Keep-alive connections for up to 512 predictions at once; nothing from the environment, no cookies."""
    session = requests.Session()
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    adapter = _Adapter(pool_connections=POOLS, pool_maxsize=512, max_retries=0)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session
