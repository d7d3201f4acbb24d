"""The platform of all contestants: answers at once or after `inputs.sleep` seconds, or is polled in RunPod's form.

    POST /v1/predict              {"model_name", "inputs"} → {"n": inputs.n}
    POST /v2/<endpoint>/run       {"input"} → {"id", "status"}, and GET /v2/<endpoint>/status/<id>
    GET  /seen                    [[n, time of the request's first byte]…]
    GET  /jobs                    [{"n", "done_at", "polls", "seconds"}…]
    POST /forget                  forgets both

The peers' Python runs it: `python -m bench.platform PORT`. Times are those of time.time().
"""

import asyncio
import json
import sys
import time
from typing import Any, cast

import uvloop

seen: list[tuple[Any, float]] = []
jobs: dict[str, dict[str, Any]] = {}


class Connection(asyncio.Protocol):
    """The little HTTP that the callers need: one request at a time, bodies with a length."""

    def __init__(self) -> None:
        self._buffer = b""
        self._began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._buffer:
            self._began = time.time()
        self._buffer += data
        head, separator, rest = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        start, _, headers = head.partition(b"\r\n")
        length = _length(headers)
        if len(rest) < length:
            return
        self._buffer = b""
        method, path, _ = start.split(b" ", 2)
        self._answer(method.decode(), path.decode(), rest[:length])

    def _answer(self, method: str, path: str, body: bytes) -> None:
        if path == "/v1/predict":
            inputs = json.loads(body)["inputs"]
            seen.append((inputs.get("n"), self._began))
            self._send_after(inputs.get("sleep", 0), {"n": inputs.get("n")})
        elif path.endswith("/run"):
            self._send_after(0, _new_job(json.loads(body)["input"]))
        elif "/status/" in path:
            self._send_after(0, _status(path.rpartition("/")[2]))
        elif path == "/seen":
            self._send_after(0, seen)
        elif path == "/jobs":
            self._send_after(0, list(jobs.values()))
        else:
            seen.clear()
            jobs.clear()
            self._send_after(0, {})

    def _send_after(self, seconds: float, answer: Any) -> None:
        body = json.dumps(answer).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        if seconds:
            asyncio.get_running_loop().call_later(seconds, self._transport.write, head + body)
        else:
            self._transport.write(head + body)


def _length(headers: bytes) -> int:
    for line in headers.split(b"\r\n"):
        if line[:15].lower() == b"content-length:":
            return int(line[15:])
    return 0


def _new_job(given: dict[str, Any]) -> dict[str, Any]:
    identity, seconds = f"job-{len(jobs)}", given.get("sleep", 0)
    jobs[identity] = {"n": given.get("n"), "done_at": time.time() + seconds, "polls": 0, "seconds": seconds}
    return {"id": identity, "status": "IN_QUEUE"}


def _status(identity: str) -> dict[str, Any]:
    job = jobs[identity]
    job["polls"] += 1
    if time.time() < job["done_at"]:
        return {"id": identity, "status": "IN_PROGRESS"}
    return {"id": identity, "status": "COMPLETED", "output": {"n": job["n"]}}


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
