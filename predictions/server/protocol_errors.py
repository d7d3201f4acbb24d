"""How a web process answers bytes that are not a valid HTTP request: as JSON, like every other error."""

import json
import socket
from contextlib import suppress
from typing import Any

from gunicorn import util
from gunicorn.http import errors

INTERNAL_ERROR = (500, "Internal Server Error", "internal_error", "internal error: it is in the agent's log")
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
"""gunicorn's exception → status, reason, code, sentence. The first that matches counts."""


def answer(client: socket.socket, error: BaseException, log: Any) -> None:
    """Answers the error and closes the connection; logs it to gunicorn's log."""
    found = next((fields for kind, fields in PROTOCOL_ERRORS if isinstance(error, kind)), INTERNAL_ERROR)
    status, reason, code, sentence = found
    if status < 500:
        log.warning("answered %d to a malformed request: %s", status, type(error).__name__)
    else:
        log.error("error while handling a request", exc_info=error)
    body = json.dumps({"error": sentence, "code": code}).encode()
    head = (
        f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with suppress(OSError):
        util.write_nonblock(client, head.encode() + body)
    util.close_graceful(client)
