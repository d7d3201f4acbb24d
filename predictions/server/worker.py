"""gunicorn's gevent worker, with an end that cuts no request off.

After SIGTERM it keeps listening until the requests in flight have their answers: the application answers new
predictions with 503, models still reach the upload routes, and `/ready` answers 503. gunicorn's own worker closes its
listener at once; this one does so only when other processes replace it (SIGHUP).
"""

import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from types import FrameType, SimpleNamespace
from typing import Any

import gevent
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn import util
from gunicorn.workers.ggevent import GeventWorker

from predictions.server import draining, protocol_errors

TICK_SECONDS = 0.1
IDLE_SECONDS = 1.0
"""How long a connection without a request can delay the end: a request may be on its way."""
LINGER_SECONDS = 10.0
LINGER_BYTES = 128 * 1024 * 1024
"""How much of an unread body a closing connection still reads: otherwise its sender may lose the answer."""
FAILED_START_SECONDS = 2.0


class GracefulWorker(GeventWorker):
    """Set `delay_seconds` and `before_ending` before `run()`."""

    wsgi: Any
    delay_seconds = 0.0
    """Time after SIGTERM in which new predictions are still accepted."""
    before_ending: Callable[[], object] = staticmethod(bool)
    """Called when new predictions are refused; the process does not end before it returns."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_replaced = False
        self._requests: set[socket.socket] = set()  # connections whose request is being answered
        self._last_used: dict[socket.socket, float] = {}  # all connections

    def init_signals(self) -> None:
        super().init_signals()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until run(): a loading process has nothing to finish

    def load_wsgi(self) -> None:
        try:
            super().load_wsgi()
        except SystemExit:  # wrong settings: gunicorn's master ends for the first such exit, but fails on a second
            time.sleep(FAILED_START_SECONDS * min(self.age - 1, 5))
            raise
        self.wsgi = _closing_connections(self.wsgi)

    def run(self) -> None:
        signal.signal(signal.SIGTERM, self.handle_exit)
        signal.signal(signal.SIGHUP, self.handle_hup)
        pool = Pool(self.worker_connections)
        servers = [self._serve(listener, pool) for listener in self.sockets]
        while self.alive:
            self._tick()
        deadline = time.monotonic() + self.cfg.graceful_timeout - 1  # the master kills a second later
        draining.leaving.set()
        if not self._is_replaced:
            self._drain(servers, deadline)
        for server in servers:
            server.close()
        while len(pool) > self._count_idle() and time.monotonic() < deadline:
            self._tick()

    def handle_hup(self, sig: int, frame: FrameType | None) -> None:
        """Other processes replace this one, and SIGTERM follows."""
        self._is_replaced = True

    def _serve(self, listener: Any, pool: Pool) -> StreamServer:
        name = listener.getsockname()  # a connection may begin when the listener is closed
        listener.setblocking(1)
        handle = partial(self.handle, SimpleNamespace(getsockname=lambda: name))
        server = StreamServer(listener, handle=handle, spawn=pool)
        if self.cfg.workers > 1:
            server.max_accept = 1  # leaves connections to the other processes
        server.start()
        return server

    def _drain(self, servers: list[StreamServer], deadline: float) -> None:
        refuse_at = time.monotonic() + self.delay_seconds
        while time.monotonic() < refuse_at:
            self._tick()
        draining.refusing.set()
        ending = gevent.spawn(self.before_ending)
        in_flight = self._requests.copy()
        while (in_flight & self._requests or not ending.ready()) and time.monotonic() < deadline:
            self._tick()
        for server in servers:  # closing a listener resets the connections that wait there
            while not server.full() and (connection := server.do_read()):
                server.do_handle(*connection)

    def _tick(self) -> None:
        self.notify()
        gevent.sleep(TICK_SECONDS)

    def _count_idle(self) -> int:
        long_ago = time.monotonic() - IDLE_SECONDS
        return sum(used < long_ago and sock not in self._requests for sock, used in self._last_used.items())

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        self._last_used[client] = time.monotonic()
        try:
            super().handle(listener, client, addr)
        finally:
            del self._last_used[client]

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        self._requests.add(sock)
        try:
            super().handle_request(listener_name, req, sock, addr)
            return
        except StopIteration:  # gunicorn closes the connection next
            pass
        finally:
            self._requests.discard(sock)
            self._last_used[sock] = time.monotonic()
        util.close_graceful(sock, LINGER_SECONDS, LINGER_BYTES)
        raise StopIteration

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        protocol_errors.answer(client, exc, self.log)


def _closing_connections(application: Any) -> Any:
    """Obeys `Connection: close` in an answer of the application; gunicorn drops that header."""

    def wrapped(environ: dict[str, Any], start_response: Any) -> Any:
        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            if ("Connection", "close") in headers:
                start_response.__self__.force_close()
            return start_response(status, headers, exc_info)

        return application(environ, start)

    return wrapped
