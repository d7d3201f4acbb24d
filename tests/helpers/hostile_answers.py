"""Answers of a hostile or broken server."""

import gzip

from tests.helpers.stub import Step, head, says, sends

DEEP = b"[" * 100_000 + b"]" * 100_000
DEEPER_THAN_ALLOWED = b'{"a":' * 101 + b"0" + b"}" * 101
WIDE = b"[" + b"{}," * 1_000_001 + b"0]"
LONG_NUMBER = b"9" * 1_000_000
TWICE_COMPRESSED = gzip.compress(gzip.compress(b'"' + b"x" * 50_000_000 + b'"'))
HOSTILE: dict[str, Step] = {
    "100,000 levels": says(DEEP, content_type="application/json"),
    "101 levels": says(DEEPER_THAN_ALLOWED, content_type="application/json"),
    "a million objects": says(WIDE, content_type="application/json"),
    "a million digits": says(LONG_NUMBER, content_type="application/json"),
    "compressed twice": says(TWICE_COMPRESSED, content_type="application/json", content_encoding="gzip, gzip"),
    "no gzip": says(b"x", content_type="application/json", content_encoding="gzip"),
    "a thousand headers": sends(head(200, {f"X-{n}": "y" for n in range(1000)})),
    "a long header": sends(head(200, {"X": "y" * 1_000_000})),
    "no HTTP": sends(b"\x00\xff" * 1000 + b"\r\n\r\n"),
    "a status that is none": sends(b"HTTP/1.1 9999999999 OK\r\n\r\n"),
    "a redirect": sends(
        b"HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"
    ),
}
