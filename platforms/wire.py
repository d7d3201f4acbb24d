"""HTTP/1.1 to platforms: sends a request in one write and reads the answer piece by piece.

It follows no redirects, keeps no cookies and uses no proxy. httptools (llhttp) parses the answers.
"""

import zlib
from base64 import b64encode
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import httptools
from requests import PreparedRequest
from requests.exceptions import InvalidHeader, InvalidSchema, InvalidURL, MissingSchema

from platforms.connections import PIECE_BYTES, Connection, Connections, Exchange, Origin

INVALID_REQUEST = (MissingSchema, InvalidSchema, InvalidURL, InvalidHeader, UnicodeError)
"""What settings raise that make no valid request; their words may hold a key."""
PORTS = {"http": 80, "https": 443}
FIRST_BYTES = 8 * 1024
"""Size of the buffer for the beginning of an answer, held for as long as a prediction takes."""
LONGEST_HEAD_BYTES = 256 * 1024
MOST_HEADERS = 100
JOINED_BYTES = 64 * 1024
"""A body up to this goes with its head; copying a larger one would cost more than a second send."""


class BrokenAnswer(ConnectionError):
    """The answer is not HTTP, or ended early."""


class Target(NamedTuple):
    """An address, as a request says it."""

    origin: Origin
    host: str
    path: str
    authorization: str
    """The header for a name and password in the address, empty where it has none."""


@lru_cache(maxsize=1024)
def target_of(url: str) -> Target:
    """Raises INVALID_REQUEST."""
    prepared = PreparedRequest()
    prepared.prepare_url(url, None)
    parts = urlsplit(prepared.url or "")
    if parts.scheme not in PORTS:
        raise InvalidSchema(f"{parts.scheme} is not a scheme that is spoken here")
    name = parts.hostname or ""
    host = f"[{name}]" if ":" in name else name
    port = parts.port or PORTS[parts.scheme]
    secret = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return Target(
        Origin(parts.scheme, name, port),
        host if port == PORTS[parts.scheme] else f"{host}:{port}",
        (parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        f"Basic {b64encode(secret.encode()).decode()}" if "@" in parts.netloc else "",
    )


def ask(
    connections: Connections, exchange: Exchange, method: str, url: str, headers: Mapping[str, str], body: bytes | None
) -> "Answer":
    """Sends a request and waits for the head of its answer.

    Raises INVALID_REQUEST and OSError. Until `exchange.sent` the other side has certainly not all of it.
    """
    target = target_of(url)
    head = _head(method, target, headers, body)
    connection = connections.take(target.origin)
    with ExitStack() as on_error:
        on_error.callback(connection.close)
        connection.begin(exchange)
        try:
            _send(connection, exchange, head, body or b"")
            exchange.sent = True
        except BrokenPipeError:
            pass  # who closes before all has been sent may have said why
        answer = Answer(connections, connection, exchange)
        answer.begin()
        on_error.pop_all()
    return answer


def _head(method: str, target: Target, headers: Mapping[str, str], body: bytes | None) -> bytes:
    fields = {"Host": target.host, "Accept-Encoding": "identity"}
    if target.authorization:
        fields["Authorization"] = target.authorization
    if body is not None or method not in ("GET", "HEAD"):
        fields["Content-Length"] = str(len(body or b""))
    fields.update(headers)
    lines = [f"{method} {target.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    head = "\r\n".join(lines)
    if not len(lines) - 1 == head.count("\r") == head.count("\n") or "\0" in head:
        raise InvalidHeader("a header has a line break in it")
    return f"{head}\r\n\r\n".encode("latin-1")


def _send(connection: Connection, exchange: Exchange, head: bytes, body: bytes) -> None:
    if len(body) <= JOINED_BYTES:
        connection.send(head + body, exchange)
        return
    connection.send(head, exchange)
    connection.send(body, exchange)


class Answer:
    """An answer, whose body is read from the connection on demand.

    `headers` has lower-case names; repeated headers are joined with commas.
    """

    def __init__(self, connections: Connections, connection: Connection, exchange: Exchange) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._connections = connections
        self._connection: Connection | None = connection
        self._exchange = exchange
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: deque[bytes] = deque()
        self._begun = False
        self._complete = False
        self._may_be_kept = False

    def begin(self) -> None:
        """Returns when the head has come. Raises OSError."""
        read = 0
        while not self._begun:
            read += self._read()
            if read > LONGEST_HEAD_BYTES and not self._begun:
                raise BrokenAnswer("its headers do not end")

    def pieces(self) -> Iterator[bytes]:
        """The body, each piece the moment it comes. Raises OSError."""
        pieces = iter(self._next_piece, b"")
        coding = self.headers.get("content-encoding", "").lower()
        yield from pieces if coding in ("", "identity") else _unpacked(pieces, coding)

    def close(self) -> None:
        """What of the body has not been read is not wanted."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _next_piece(self) -> bytes:
        """Nothing at the end of the body, where the connection is kept for the next request."""
        while not self._pieces:
            if self._complete:
                self._let_go()
                return b""
            self._read()
        return self._pieces.popleft()

    def _let_go(self) -> None:
        if self._connection is not None and self._may_be_kept:
            self._connections.keep(self._connection)
            self._connection = None

    def _read(self) -> int:
        """Reads and parses the next bytes. Returns how many."""
        if self._connection is None:
            raise BrokenAnswer("it is closed")
        data = self._connection.receive(self._exchange, PIECE_BYTES if self._begun else FIRST_BYTES)
        if not data:
            if not self._begun or "content-length" in self.headers or "transfer-encoding" in self.headers:
                raise BrokenAnswer("the other side closed the connection before all of it had come")
            self._complete = True
            return 0
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._complete:
                raise BrokenAnswer(f"it is not HTTP: {error}") from error
            self._may_be_kept = False  # the server sent more than the answer
        return len(data)

    # --- told by the parser

    def on_message_begin(self) -> None:
        if self._complete:  # an answer to nothing
            self._may_be_kept = False

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        if not self._begun:  # what follows a body is nothing to us
            if len(self.headers) >= MOST_HEADERS:
                raise BrokenAnswer("it has too many headers")
            self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        if self._begun:
            return
        self.status = self._parser.get_status_code()
        if self.status < 200:  # the answer is still to come
            self.headers = {}
            return
        self._begun = True
        # After an exception uvicorn closes the connection a moment after its 500: it must not carry another request.
        self._may_be_kept = self._parser.should_keep_alive() and self.status != 500

    def on_body(self, body: bytes) -> None:
        if not self._complete:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        self._complete = self._begun


def _unpacked(pieces: Iterator[bytes], coding: str) -> Iterator[bytes]:
    """The same unpacked, no more than PIECE_BYTES at once. It was not asked for, but servers do it."""
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise BrokenAnswer("it is packed in a way that is not understood here")
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # either of the two, by its header
    try:
        for packed in pieces:
            rest = packed
            while rest:
                yield inflater.decompress(rest, PIECE_BYTES)
                rest = inflater.unconsumed_tail
    except zlib.error as error:
        raise BrokenAnswer("it cannot be unpacked") from error
    if not inflater.eof:
        raise BrokenAnswer("it ends before all of it could be unpacked")
