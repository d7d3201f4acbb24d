"""How a web process answers bytes that are not a valid HTTP request: as JSON, like every other error."""

import json

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


def answer(error: BaseException) -> tuple[int, bytes]:
    """The status and the bytes of the whole answer, which closes the connection."""
    found = next((fields for kind, fields in PROTOCOL_ERRORS if isinstance(error, kind)), INTERNAL_ERROR)
    status, reason, code, sentence = found
    body = json.dumps({"error": sentence, "code": code}).encode()
    head = (
        f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return status, head.encode() + body
