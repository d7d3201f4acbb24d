"""Connections to platforms: kept for the next request, and ended by any thread at any moment.

A socket's own timeout restarts with every packet, so it never stops a server that sends a byte a second. Here each read
and write gets only the rest of the exchange's time. wire.py sends and parses the messages.
"""

import socket
import threading
import time
from collections import deque
from contextlib import ExitStack, suppress
from functools import lru_cache
from ssl import SSLContext
from typing import Any, NamedTuple

import certifi
from urllib3.util.ssl_ import create_urllib3_context
from urllib3.util.wait import wait_for_read

from platforms.addresses import Address, Addresses

CONNECT_TIMEOUT_SECONDS = 5.0
IDLE_SECONDS = 4.0
"""Shorter than servers keep idle connections (uvicorn 5 s, KServe 65 s): a request must not meet one that closes."""
KEPT = 512
"""Connections of one origin that wait for the next request."""
ORIGINS = 8
"""Origins whose connections are kept."""
PIECE_BYTES = 64 * 1024


class Origin(NamedTuple):
    """Where a connection leads."""

    scheme: str
    host: str
    port: int


class Exchange:
    """One request on the wire: until when it may take, whether all of it has left, and how to end it.

    `deadline` is a time of `time.monotonic()`.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.sent = False
        self.closed = False
        self.connection: Connection | None = None

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

    def check_open(self) -> None:
        """Raises ConnectionAbortedError once it is closed."""
        if self.closed:
            raise ConnectionAbortedError("the call was stopped")


class Connection:
    """Carries one exchange at a time. Its methods raise OSError, and UnicodeError for a host that is no name."""

    def __init__(self, origin: Origin, addresses: Addresses) -> None:
        self.origin = origin
        self._addresses = addresses
        self._owner = threading.Lock()
        self._exchange: Exchange | None = None
        self._sock: Any = None
        self.used_at = 0.0

    def begin(self, exchange: Exchange) -> None:
        """From now on it is this exchange's, which may have been ended already; connects where it is new."""
        with self._owner:
            self._exchange = exchange
        exchange.connection = self
        exchange.check_open()
        if self._sock is None:
            self._sock = self._connect(exchange)
            exchange.check_open()

    def _connect(self, exchange: Exchange) -> Any:
        """Connects to the first of the host's addresses that answers."""
        _, host, port = self.origin
        refusal = OSError(f"{host} has no address")
        for address in self._addresses.of(host, port, timeout_seconds=_connect_seconds(exchange)):
            try:
                return self._connect_to(address, exchange)
            except OSError as error:
                refusal = error
        raise refusal

    def _connect_to(self, address: Address, exchange: Exchange) -> Any:
        sock = socket.socket(address.family, socket.SOCK_STREAM)
        with ExitStack() as on_error:
            on_error.callback(sock.close)
            sock.settimeout(_connect_seconds(exchange))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect(address.place)
            if self.origin.scheme == "https":
                sock = tls_context().wrap_socket(sock, server_hostname=self.origin.host.rstrip("."))
            on_error.pop_all()
        return sock

    def send(self, data: bytes, exchange: Exchange) -> None:
        self._sock.settimeout(exchange.remaining())
        self._sock.sendall(data)

    def receive(self, exchange: Exchange, most: int) -> bytes:
        """The next bytes, up to `most`. The buffer stays allocated while none come.

        Nothing once the other side has closed.
        """
        self._sock.settimeout(exchange.remaining())
        data: bytes = self._sock.recv(most)
        return data

    @property
    def is_usable(self) -> bool:
        """Whether it may be used again: nothing has come on it since, no farewell either."""
        return time.monotonic() - self.used_at < IDLE_SECONDS and self._is_quiet()

    def _is_quiet(self) -> bool:
        if self.origin.scheme != "http":
            return not wait_for_read(self._sock, timeout=0.0)  # TLS has no peek
        self._sock.settimeout(0)
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def interrupt(self, exchange: Exchange) -> None:
        """Breaks the connection, unless another exchange uses it meanwhile."""
        with self._owner:
            sock = self._sock  # read once: its owner may close it now
            if self._exchange is exchange and sock is not None:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()


class Connections:
    """Those that are kept, by their origins."""

    def __init__(self) -> None:
        self._idle: dict[Origin, deque[Connection]] = {}
        self._addresses = Addresses()

    def take(self, origin: Origin) -> Connection:
        """One that is open and quiet, or else a new one."""
        idle = self._idle.get(origin)
        with suppress(IndexError):
            while idle:
                connection = idle.pop()
                if connection.is_usable:
                    return connection
                connection.close()
        return Connection(origin, self._addresses)

    def keep(self, connection: Connection) -> None:
        """For the next request. Those that have waited for too long are closed."""
        connection.used_at = time.monotonic()
        idle = self._idle.get(connection.origin)
        if idle is None:
            idle = self._begin(connection.origin)
        with suppress(IndexError):
            while idle and (len(idle) >= KEPT or idle[0].used_at < connection.used_at - IDLE_SECONDS):
                idle.popleft().close()
        idle.append(connection)

    def close(self) -> None:
        """Those that wait for a next request."""
        while self._idle:
            self._drop(next(iter(self._idle)))

    def _begin(self, origin: Origin) -> deque[Connection]:
        while len(self._idle) >= ORIGINS:
            self._drop(next(iter(self._idle)))
        return self._idle.setdefault(origin, deque())

    def _drop(self, origin: Origin) -> None:
        for connection in self._idle.pop(origin, ()):
            connection.close()


def _connect_seconds(exchange: Exchange) -> float:
    return min(CONNECT_TIMEOUT_SECONDS, exchange.remaining())


@lru_cache(maxsize=1)
def tls_context() -> SSLContext:
    """Made once, for reading the authorities takes a while: the public ones, and the system's or SSL_CERT_FILE's."""
    context = create_urllib3_context()
    context.load_verify_locations(certifi.where())
    context.load_default_certs()
    return context
