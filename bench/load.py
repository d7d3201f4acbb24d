"""The load: connections that send the next request after each answer, on raw asyncio and uvloop.

It runs in a separate process with the peers' Python (`python -m bench.load`) and costs about 30 µs of CPU a request.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, cast

NUMBER = "__N__"
"""bench.load replaces it in a body by the number of the request."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """Requests to send. They end after `seconds`, or when each connection has sent `each` of them."""

    port: int
    path: str
    method: str = "POST"
    body: str = ""
    connections: int = 1
    seconds: float = 600.0
    each: int = 1_000_000_000
    pause: float = 0.0
    """Seconds that a connection waits between two requests."""
    keep_answers: bool = False
    paths: tuple[str, ...] = ()
    """Requested in turn, instead of `path`."""

    def text(self) -> str:
        return json.dumps(asdict(self))


class _Count:
    def __init__(self, load: Load) -> None:
        self.load = load
        self.sent = 0
        self.seconds: list[float] = []
        self.errors: list[str] = []
        self.answers: list[tuple[int, float, float]] = []
        self.until = time.perf_counter() + load.seconds


class _Connection(asyncio.Protocol):
    def __init__(self, count: _Count) -> None:
        self._count = count
        self._left = count.load.each
        self._buffer = b""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        load = self._count.load
        if self._left == 0 or time.perf_counter() >= self._count.until:
            self._transport.close()
            self._finish()
            return
        self._left -= 1
        self._number = self._count.sent
        self._count.sent += 1
        path = load.paths[self._number % len(load.paths)] if load.paths else load.path
        body = load.body.replace(NUMBER, str(self._number)).encode()
        head = (
            f"{load.method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._sent_at = time.perf_counter()
        self._sent_time = time.time()
        self._transport.write(head.encode() + body)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = _length(head)
        if length is None:
            self._count.errors.append("an answer without Content-Length, which bench.load does not understand")
            self._transport.close()
            self._finish()
            return
        if len(body) < length:
            return
        self._buffer = b""
        count = self._count
        count.seconds.append(time.perf_counter() - self._sent_at)
        if head[9:12] != b"200":
            count.errors.append(head[:60].decode(errors="replace"))
        if count.load.keep_answers:
            count.answers.append((self._number, self._sent_time, time.time()))
        if count.load.pause:
            asyncio.get_running_loop().call_later(count.load.pause, self._send)
        else:
            self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.over.done():
            self._count.errors.append(f"connection lost: {error}")
        self._finish()

    def _finish(self) -> None:
        if not self.over.done():
            self.over.set_result(None)


def _length(head: bytes) -> int | None:
    for line in head.split(b"\r\n"):
        if line[:15].lower() == b"content-length:":
            return int(line[15:])
    return None


async def _connect(count: _Count) -> None:
    loop = asyncio.get_running_loop()
    try:
        _, connection = await loop.create_connection(lambda: _Connection(count), "127.0.0.1", count.load.port)
    except OSError as error:
        count.errors.append(f"cannot connect: {error}")
        return
    await connection.over


async def run(load: Load) -> dict[str, Any]:
    """The number of answers and errors, and the time that they took; times in seconds."""
    count = _Count(load)
    began = time.perf_counter()
    await asyncio.gather(*(_connect(count) for _ in range(load.connections)))
    took = time.perf_counter() - began
    ordered = sorted(count.seconds) or [float("nan")]
    return {
        "answered": len(count.seconds),
        "errors": len(count.errors),
        "first_error": next(iter(count.errors), ""),
        "seconds": took,
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
        "worst": ordered[-1],
        "answers": count.answers,
    }


if __name__ == "__main__":
    import resource

    import uvloop

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
    print(json.dumps(uvloop.run(run(Load(**json.loads(sys.argv[1]))))))
