"""A scriptable HTTP server on raw sockets: it resets, drips and babbles on demand, and counts its requests.

    stub.script("POST /v1/predict", resets_after_reading, answers({"ok": True}))

Each request to a route takes the route's next step; the last one stays. A step is a function of the Visit.
"""

import json
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

MAX_REQUEST = 64 * 1024


class HungUp(Exception):
    """The client closed the connection."""


@dataclass
class Received:
    """A request in its raw form."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Visit:
    """One request on its connection, for a step to deal with."""

    stub: "Stub"
    sock: socket.socket
    received: Received
    rest: bytes
    keep_alive: bool = True

    def read_body(self) -> None:
        missing = int(self.received.headers.get("content-length", "0")) - len(self.rest)
        while missing > 0:
            piece = self.sock.recv(min(missing, 1 << 20))
            if not piece:
                raise HungUp
            self.rest += piece
            missing -= len(piece)
        self.received.body = self.rest

    def send(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except OSError as error:
            self.stub.hung_up.set()
            raise HungUp from error

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
        raise HungUp

    def wait_until_hung_up(self) -> None:
        """Returns when the client has closed the connection; the test can wait for `stub.hung_up`."""
        self.sock.settimeout(20)
        with suppress(ConnectionError):
            self.sock.recv(1)
        self.stub.hung_up.set()
        raise HungUp


Step = Callable[[Visit], None]


@dataclass
class Stub:
    """Listens from the start, or after `start()`; until then its port refuses connections."""

    listens: bool = True
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    hung_up: threading.Event = field(default_factory=threading.Event)
    gate: threading.Event = field(default_factory=threading.Event)
    stopped: threading.Event = field(default_factory=threading.Event)
    wrap: Callable[[socket.socket], socket.socket] = lambda sock: sock
    """Wraps each connection, for example in TLS."""

    def __post_init__(self) -> None:
        self._steps: dict[str, list[Step]] = defaultdict(list)
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        if self.listens:
            self.listen()

    def listen(self) -> None:
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def script(self, route: str, *steps: Step) -> None:
        self._steps[route] = list(steps)

    def calls(self, route: str) -> list[Received]:
        return [one for one in self.received if f"{one.method} {one.path}" == route]

    def count(self, route: str) -> int:
        return len(self.calls(route))

    def when_asked(self, route: str, act: Callable[[], Any]) -> None:
        """Calls it in a thread after the first request for the route."""

        def wait() -> None:
            while not self.stopped.is_set() and not self.count(route):
                self.stopped.wait(0.005)
            act()

        threading.Thread(target=wait, daemon=True).start()

    def close(self) -> None:
        self.stopped.set()
        self.gate.set()
        for sock in [self._listener, *self._sockets]:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.connections += 1
                self._sockets.append(sock)
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with suppress(HungUp, OSError), sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._serve_wrapped(self.wrap(sock))

    def _serve_wrapped(self, sock: socket.socket) -> None:
        with sock:
            keep_alive = True
            while keep_alive:
                visit = self._next_request(sock)
                self._step_for(visit)(visit)
                keep_alive = visit.keep_alive

    def _next_request(self, sock: socket.socket) -> Visit:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = sock.recv(MAX_REQUEST)
            if not piece:
                raise HungUp
            head += piece
        head, _, rest = head.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return Visit(self, sock, Received(method, path, headers), rest)

    def _step_for(self, visit: Visit) -> Step:
        route = f"{visit.received.method} {visit.received.path}"
        with self._lock:
            self.received.append(visit.received)
            steps = self._steps.get(route, [])
            if not steps:
                return answers({"error": f"nothing is scripted for {route}"}, status=418)
            return steps.pop(0) if len(steps) > 1 else steps[0]


def head(status: int = 200, headers: dict[str, str] | None = None) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    return f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode("latin-1")


def answers(body: Any = None, *, status: int = 200, **headers: str) -> Step:
    """A whole JSON answer; a header `retry_after="1"` is sent as `Retry-After`."""
    return says(json.dumps(body).encode(), status=status, content_type="application/json", **headers)


def says(body: bytes, *, status: int = 200, content_type: str = "", **headers: str) -> Step:
    """A whole answer of any kind; without a Content-Type unless one is given."""
    fields = {name.replace("_", "-").title(): value for name, value in headers.items()}
    if content_type:
        fields["Content-Type"] = content_type

    def step(visit: Visit) -> None:
        visit.read_body()
        visit.send(head(status, {**fields, "Content-Length": str(len(body))}) + body)

    return step


def sends(data: bytes) -> Step:
    """Exactly these bytes, whatever they are; then the connection ends."""

    def step(visit: Visit) -> None:
        visit.read_body()
        visit.send(data)
        visit.keep_alive = False

    return step


def resets_while_reading(visit: Visit) -> None:
    """Reads the headers, not the body: with a large one the client is still sending."""
    visit.reset()


def resets_after_reading(visit: Visit) -> None:
    visit.read_body()
    visit.reset()


def closes_without_answer(visit: Visit) -> None:
    visit.read_body()
    visit.keep_alive = False


def reads_nothing(visit: Visit) -> None:
    visit.stub.stopped.wait(20)
    raise HungUp


def reads_slowly(visit: Visit) -> None:
    visit.stub.stopped.wait(0.3)
    answers({"predictions": [1]})(visit)


def hangs(visit: Visit) -> None:
    """Never answers; notices when the client has had enough."""
    visit.read_body()
    visit.wait_until_hung_up()


def drips(start: bytes, drop: bytes, *, every: float = 0.02) -> Step:
    """`start`, and then `drop` repeatedly, each time within a socket's own timeout."""

    def step(visit: Visit) -> None:
        visit.read_body()
        visit.send(start)
        while not visit.stub.stopped.wait(every):
            visit.send(drop)

    return step


def streams(*pieces: bytes, status: int = 200, content_type: str = "", ends: bool = True) -> Step:
    """A chunked answer, a chunk a piece. An empty piece waits for `stub.gate`; without `ends` it breaks off."""

    def step(visit: Visit) -> None:
        visit.read_body()
        fields = {"Transfer-Encoding": "chunked"} | ({"Content-Type": content_type} if content_type else {})
        visit.send(head(status, fields))
        for piece in pieces:
            if piece:
                visit.send(chunked(piece))
            elif not visit.stub.gate.wait(20):
                raise HungUp
        if ends:
            visit.send(b"0\r\n\r\n")
        visit.keep_alive = ends

    return step


def streams_until_hung_up(*pieces: bytes, content_type: str = "") -> Step:
    def step(visit: Visit) -> None:
        streams(*pieces, content_type=content_type, ends=False)(visit)
        visit.wait_until_hung_up()

    return step


def pours(total: int, *, announced: bool = False, status: int = 200) -> Step:
    """A body of `total` bytes in 64 KiB pieces, with its length announced or chunked."""
    block = b'"' + b"x" * (64 * 1024 - 1)

    def step(visit: Visit) -> None:
        visit.read_body()
        length = {"Content-Length": str(total)} if announced else {"Transfer-Encoding": "chunked"}
        visit.send(head(status, {"Content-Type": "application/json", **length}))
        for _ in range(total // len(block)):
            visit.send(block if announced else chunked(block))

    return step


def chunked(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


_held: list[socket.socket] = []


def closed_port() -> int:
    """A port that refuses connections; it stays bound, so no other process gets it."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a Stub may listen there all the same
    held.bind(("127.0.0.1", 0))
    _held.append(held)
    return int(held.getsockname()[1])


def later(seconds: float, act: Callable[[], Any]) -> None:
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()
