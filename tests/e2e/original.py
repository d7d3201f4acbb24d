"""The requests of the Go original's agent and of its callers, byte for byte, for tests to send again."""

import http.client
import json
import re
import socket
from dataclasses import dataclass
from typing import Any

from tests.helpers.servers import ROOT, Server

TASK_ID = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"
QUEUE_ID = "c7c6b1f0-2d1a-4c1f-9a3e-5f0d8c9b7a61"
KEY = "123456789"
"""Of the record service, in the recorded requests and in the original's sample files."""

_FILE = ROOT / "tests/e2e/original.http"
_BLOCK = re.compile(r"^### ([^\n]+)\n(.*?)\n(?=### |\Z)", re.DOTALL | re.MULTILINE)

RECORDED = {name: text.replace("\n", "\r\n").encode() for name, text in _BLOCK.findall(_FILE.read_text())}
"""Name → the whole request."""


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(server: Server, name: str, *headers: str, task_id: str = TASK_ID, path: str = "") -> Answer:
    """Sends a recorded request, with the server's port in its Host header.

    `headers` are added, such as `apikey: key`; `task_id` and `path` are put in place of those recorded.
    """
    return send(server, recorded(server, name, *headers, task_id=task_id, path=path))


def recorded(server: Server, name: str, *headers: str, task_id: str = TASK_ID, path: str = "") -> bytes:
    """The bytes that `ask` sends."""
    request = RECORDED[name].replace(b"127.0.0.1:12000", f"127.0.0.1:{server.port}".encode(), 1)
    request = request.replace(TASK_ID.encode(), task_id.encode())
    if path:
        request = re.sub(rb"^(\w+) \S+", rb"\1 " + path.encode(), request)
    head, end_of_head, body = request.partition(b"\r\n\r\n")
    return b"\r\n".join([head, *(header.encode() for header in headers)]) + end_of_head + body


def send(server: Server, request: bytes) -> Answer:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(request)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return Answer(response.status, response.headers, response.read())
