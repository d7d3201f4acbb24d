"""Request bodies: JSON of a bounded size, with a length or in chunks, read when a view asks for it."""

from collections.abc import Mapping
from typing import IO, Any, BinaryIO, NoReturn, cast

from django.conf import settings
from django.core.exceptions import BadRequest, RequestDataTooBig
from django.http import HttpRequest
from gunicorn.http.errors import ParseException
from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser

from platforms.parsing import Malformed, parse

WRAPPING = 10
"""Extra nesting levels for records, which wrap the outputs of other agents' platforms."""


class ChunkedBody:
    """A body without a length. It is read after authentication, so a slow caller without a key costs nothing.

    Raises RequestDataTooBig beyond MAX_REQUEST_BODY, and BadRequest if it is malformed.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._left = settings.MAX_REQUEST_BODY
        self.is_read = False
        """Whether the end was reached. If not, the connection cannot be used again."""

    def read(self, size: int | None = None) -> bytes:
        wanted = self._left + 1 if size is None or size < 0 else min(size, self._left + 1)
        try:
            data = self._stream.read(wanted)
        except (ParseException, OSError) as error:  # broken chunks, or a caller that hung up
            raise BadRequest("the chunked body is malformed") from error
        self._left -= len(data)
        if self._left < 0:
            raise RequestDataTooBig
        self.is_read = len(data) < wanted
        return data


def find_chunked_body(request: HttpRequest) -> ChunkedBody | None:
    """Makes a chunked body readable for Django and DRF, which only read bodies with a length.

    Raises BadRequest for other transfer codings.
    """
    coding = request.META.get("HTTP_TRANSFER_ENCODING", "").strip().lower()
    if not coding or "wsgi.input" not in request.META:
        return None
    if coding != "chunked":
        raise BadRequest(f"the transfer coding {coding[:50]!r} is not understood here")
    body = ChunkedBody(request.META["wsgi.input"])
    request.META["CONTENT_LENGTH"] = str(settings.MAX_REQUEST_BODY)  # the largest possible length
    request._stream = cast(BinaryIO, body)
    return body


class JSONBodyParser(BaseParser):
    """A JSON body of at most MAX_REQUEST_BODY bytes. Raises RequestDataTooBig and ParseError."""

    media_type = "application/json"

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        meta = (parser_context or {})["request"].META
        length = int(meta.get("CONTENT_LENGTH") or 0)
        if length > settings.MAX_REQUEST_BODY:
            raise RequestDataTooBig
        content = stream.read()
        if len(content) < length and "HTTP_TRANSFER_ENCODING" not in meta:
            raise ParseError("the body ended before its Content-Length")
        try:
            return parse(content, not_a_number=_refuse, wrapping=WRAPPING)
        except Malformed as error:
            raise ParseError(f"the body {error}") from error


def _refuse(text: str) -> NoReturn:
    raise Malformed(f"has {text[:50]} in it, which is not a number that JSON can carry")
