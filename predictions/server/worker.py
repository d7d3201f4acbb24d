"""gunicorn's gevent worker, made to end without cutting anybody off, and to answer what is not HTTP as JSON.

After SIGTERM it goes on listening until what was in flight has ended: new predictions are answered 503 (by the
application), models still reach the upload routes, probes see why. gunicorn's own closes its listener at once, and
what the kernel had accepted until then is reset.
"""

import array
import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from types import FrameType
from typing import Any

import gevent
from gevent.monkey import get_original
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn import util
from gunicorn.http import errors
from gunicorn.workers.ggevent import GeventWorker

LOOK_EVERY_SECONDS = 0.1
LINGER_SECONDS = 1.0
"""How long the door stays open at least, for callers who are on their way."""
IDLE_SECONDS = 5.0
"""A kept-alive connection that says nothing for so long, while the process ends, is closed."""
HANDSHAKE_SECONDS = 0.5
"""How long a handshake that has begun may take to be completed."""
EXIT_APART_SECONDS = 2.0
UNREAD_LIMIT_BYTES = 128 * 1024 * 1024
UNREAD_SECONDS = 10.0
SO_ATTACH_FILTER = 26

INTERNAL_ERROR = (500, "Internal Server Error", "internal_error", "internal error: it is in the agent's log")
# gunicorn's error → status, reason, code, sentence. The first that fits counts.
PROTOCOL_ERRORS: list[tuple[type[Exception], tuple[int, str, str, str]]] = [
    (errors.InvalidResponseHeader, INTERNAL_ERROR),
    (errors.InvalidResponseHeaderName, INTERNAL_ERROR),
    (errors.LimitRequestLine, (414, "URI Too Long", "uri_too_long", "the request line is too long")),
    (
        errors.LimitRequestHeaders,
        (431, "Request Header Fields Too Large", "headers_too_large", "the request's headers are too many or too long"),
    ),
    (errors.ExpectationFailed, (417, "Expectation Failed", "invalid_request", "this Expect header is not understood")),
    (errors.ParseException, (400, "Bad Request", "invalid_request", "this is not a well-formed HTTP request")),
]


class Roll:
    """Which of a server's processes still serve, and which still listen.

    Locks on a file that they all inherit: a process that dies gives its own back, however it died.
    """

    SERVING, LISTENING = 0, 1

    def __init__(self) -> None:
        with tempfile.TemporaryFile() as file:
            self._file = os.dup(file.fileno())

    def enter(self) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_SH, 2, 0)

    def leave(self, part: int) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, part)

    def is_empty(self, part: int) -> bool:
        """Whether nobody is left; asked by one who has left. Of several who ask at once one is told so, or more."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, part)
        except OSError:
            return False
        self.leave(part)
        return True


class ListenerName:
    """What a connection asks of its listener. It is asked when the connection's greenlet begins, and a connection
    that was accepted last begins after the listener is closed."""

    def __init__(self, listener: socket.socket) -> None:
        self._name = listener.getsockname()

    def getsockname(self) -> Any:
        return self._name


class PatientWorker(GeventWorker):
    """Ends when told to, without haste: see the module."""

    wsgi: Any
    roll = Roll()  # made in the master, before its processes are
    delay_seconds = 0.0
    """After SIGTERM everything goes on for so long; `told_to_end` says that it has come."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.told_to_end = False
        self.refusing = False
        """Whether new predictions are to be refused: nobody else is here to take them."""
        self.before_ending: Callable[[], object] = bool
        """Called when new predictions are refused, while those in flight go on."""
        self.signals_of_the_master: SimpleQueue[int] = SimpleQueue()
        self._end_at = float("inf")
        self._farewell: gevent.Greenlet | None = None
        self._connections: dict[socket.socket, float | None] = {}  # → since when it is idle; None: not idle
        self._requests: set[object] = set()

    # --- serving

    def init_process(self) -> None:
        self.roll.enter()
        super().init_process()

    def init_signals(self) -> None:
        """From here on SIGTERM comes here. Since the fork it went to the master's handler, which only queues it."""
        super().init_signals()
        while not self.signals_of_the_master.empty():
            if self.signals_of_the_master.get() == signal.SIGTERM:
                self.handle_exit(signal.SIGTERM, None)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM; a second one changes nothing."""
        if not self.told_to_end:
            self.told_to_end = True
            self._end_at = time.monotonic() + self.delay_seconds

    def load_wsgi(self) -> None:
        try:
            super().load_wsgi()
        except SystemExit:
            # Wrong settings: all processes find them, and gunicorn's master, once it ends for one, fails on the next.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if self.told_to_end:
                sys.exit()
            time.sleep(EXIT_APART_SECONDS * min(self.age - 1, 5))
            raise
        self.wsgi = _told_by(self.wsgi)

    def run(self) -> None:
        pool = Pool(self.worker_connections)
        servers = [self._serve(listener, pool) for listener in self.sockets]
        while time.monotonic() < self._end_at:
            self._look()
        self.alive = False
        self._end(servers, pool)

    def _serve(self, listener: Any, pool: Pool) -> StreamServer:
        listener.setblocking(1)
        server = StreamServer(listener, handle=partial(self.handle, ListenerName(listener)), spawn=pool)
        if self.cfg.workers > 1:
            server.max_accept = 1  # the others shall have their share
        server.start()
        return server

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        self._connections[client] = time.monotonic()
        try:
            super().handle(listener, client, addr)
        finally:
            del self._connections[client]

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        request = object()
        self._requests.add(request)
        self._connections[sock] = None
        try:
            return super().handle_request(listener_name, req, sock, addr)
        except StopIteration:
            _hear_out(req)
            raise
        finally:
            self._connections[sock] = time.monotonic()
            self._requests.discard(request)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        answer = next((answer for kind, answer in PROTOCOL_ERRORS if isinstance(exc, kind)), INTERNAL_ERROR)
        status, reason, code, sentence = answer
        if status < 500:
            self.log.warning("answered %d to what is not HTTP: %s", status, type(exc).__name__)
        else:
            self.log.error("error while handling a request", exc_info=exc)
        body = json.dumps({"error": sentence, "code": code}).encode()
        head = (
            f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with suppress(OSError):
            util.write_nonblock(client, head.encode() + body)
        util.close_graceful(client)

    # --- ending

    def _end(self, servers: list[StreamServer], pool: Pool) -> None:
        deadline = self._end_at - self.delay_seconds + self.cfg.graceful_timeout - 2  # then the master kills
        self.roll.leave(Roll.SERVING)
        self._finish_what_runs(servers, deadline)
        self._shut_the_door(servers)
        while (len(pool) or self._farewell) and time.monotonic() < deadline:
            self._close_idle_connections()
            self._look()
        if len(pool):
            self.log.warning("ending with %d connections open: their time is up", len(pool))

    def _look(self) -> None:
        """Waits a moment, and tells the master that all is well."""
        self.notify()
        gevent.sleep(LOOK_EVERY_SECONDS)

    def _finish_what_runs(self, servers: list[StreamServer], deadline: float) -> None:
        """Listens meanwhile, unless other processes go on serving (it was only this one's turn to end)."""
        in_flight: set[object] = set()
        linger = time.monotonic() + LINGER_SECONDS
        while (in_flight & self._requests and time.monotonic() < deadline) or time.monotonic() < linger:
            if not self.refusing:
                in_flight = set(self._requests)
                if self.roll.is_empty(Roll.SERVING):
                    self.refusing = True
                    self._farewell = gevent.spawn(self.before_ending)
            for server in servers:
                server.start_accepting() if self.refusing else server.stop_accepting()
            self._look()

    def _shut_the_door(self, servers: list[StreamServer]) -> None:
        """Closes the listeners; the last process to do so first takes in everybody who is at the door."""
        self.roll.leave(Roll.LISTENING)
        if self.roll.is_empty(Roll.LISTENING):
            for server in servers:
                _admit_no_more(server.socket)
                server.start_accepting()
            closed_at = time.monotonic() + HANDSHAKE_SECONDS
            while time.monotonic() < closed_at or any(_somebody_waits(server.socket) for server in servers):
                self._look()
        for server in servers:
            server.close()

    def _close_idle_connections(self) -> None:
        """Ends their reading, not their writing: a request that has come already is still answered."""
        long_ago = time.monotonic() - IDLE_SECONDS
        for sock, idle_since in list(self._connections.items()):
            if idle_since is not None and idle_since < long_ago:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RD)


def _hear_out(req: Any) -> None:
    """Reads what of the body nobody read: closing over it resets the connection, and the answer may be lost."""
    left = UNREAD_LIMIT_BYTES
    with gevent.Timeout(UNREAD_SECONDS, False), suppress(OSError, errors.ParseException):
        while left > 0 and (data := req.body.read(65536)):
            left -= len(data)


def _admit_no_more(listener: socket.socket) -> None:
    """Lets no new handshake begin; those under way are completed. (A new caller's is repeated by its kernel, and then
    refused, because nobody listens any more.)"""
    # Classic BPF on the TCP header: drop what has SYN set and ACK not.
    program = [(0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF)]
    code = array.array("B", b"".join(struct.pack("HBBI", *step) for step in program))
    with suppress(OSError):  # where the kernel knows no filters
        if listener.family in (socket.AF_INET, socket.AF_INET6):
            fprog = struct.pack("HL", len(program), code.buffer_info()[0])
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, fprog)


def _somebody_waits(listener: socket.socket) -> bool:
    poll = get_original("select", "poll")()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))


def _told_by(application: Any) -> Any:
    """What gunicorn does not let an application say: that the connection is to be closed (it drops the header), and
    that an answer is whole, so that head and body go at once."""

    def wrapped(environ: dict[str, Any], start_response: Any) -> Any:
        response = start_response.__self__

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            if ("Connection", "close") in headers:
                response.force_close()
            return start_response(status, headers, exc_info)

        answer = application(environ, start)
        if isinstance(answer, list) and answer[0] and environ["REQUEST_METHOD"] != "HEAD":
            response.sock = _WithItsHead(response.sock)
        return answer

    return wrapped


class _WithItsHead:
    """A socket that holds the head of an answer back until there is a piece of its body."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._head: bytes | None = None

    def sendall(self, data: bytes) -> None:
        if self._head is None:
            self._head = data
            return
        self._sock.sendall(self._head + data)
        self._head = b""
