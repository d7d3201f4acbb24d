"""Reads the answer of an untrusted platform within limits of size and time."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from platforms.base import Call, PlatformError
from platforms.connections import Exchange
from platforms.parsing import Malformed, as_none, parse
from platforms.wire import Answer

ERROR_BODY_SECONDS = 5.0
ERROR_BODY_BYTES = 64 * 1024
LONGEST_LINE_BYTES = 1024 * 1024


class AnswerTooLarge(PlatformError):
    """The answer, or a line of a streamed one, is longer than may be held in memory."""


class Reply:
    """An answer whose head has come, to be left as a context. `retry_after` in seconds, None where it has none."""

    def __init__(
        self, answer: Answer, exchange: Exchange, call: Call, meaning_of: Callable[[OSError], PlatformError]
    ) -> None:
        """`meaning_of` turns an error of the connection into a PlatformError, or raises CallStopped."""
        self.status = answer.status
        self.content_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        self.retry_after = _retry_after(answer.headers.get("retry-after", ""))
        self._announced = answer.headers.get("content-length", "")
        self._answer = answer
        self._exchange = exchange
        self._call = call
        self._meaning_of = meaning_of

    def __enter__(self) -> "Reply":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """What of it has not been read is not wanted."""
        self._answer.close()
        self._call.forget(self._exchange.close)

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    def pieces(self) -> Iterator[bytes]:
        """The body, each piece the moment it comes."""
        try:
            yield from self._answer.pieces()
        except OSError as error:
            raise self._meaning_of(error) from error
        self._call.check()  # a connection that was broken from here also just ends

    def read(self, at_most: int) -> bytearray:
        """The whole body. Raises AnswerTooLarge, having held no more than `at_most` bytes."""
        content = bytearray()
        if self._announced.isdecimal() and float(self._announced) > at_most:
            raise AnswerTooLarge("the platform's answer is larger than MAX_RESPONSE_BODY")
        for piece in self.pieces():
            content += piece
            if len(content) > at_most:
                raise AnswerTooLarge("the platform's answer is larger than MAX_RESPONSE_BODY")
        return content

    def beginning(self) -> bytearray:
        """The beginning of an error's body, if it comes soon. The status counts even without a body."""
        self._exchange.deadline = min(self._exchange.deadline, time.monotonic() + ERROR_BODY_SECONDS)
        content = bytearray()
        with suppress(OSError):
            for piece in self._answer.pieces():
                content += piece
                if len(content) >= ERROR_BODY_BYTES:
                    break
        self._call.check()
        return content

    def lines(self) -> Iterator[str]:
        """The body's lines without their ends, each the moment it is whole. Raises AnswerTooLarge."""
        rest = bytearray()
        for piece in self.pieces():
            rest += piece
            if b"\n" in piece:
                *whole, rest = rest.split(b"\n")
                for line in whole:
                    self._call.check()
                    yield _line(line)
            if len(rest) > LONGEST_LINE_BYTES:
                raise AnswerTooLarge("the platform's stream has a line that is too long")
        if rest:
            yield _line(rest)


def loads(content: bytes | bytearray) -> Any:
    """JSON as platforms write it: NaN and infinite numbers become None. Raises Malformed."""
    return parse(content, not_a_number=as_none)


def words_of(said: Any, *, depth: int = 6) -> str:
    """The message of a platform's error, "" if there is none.

    `error_message` is RunPod's (inside an `error` that is itself JSON, beside a traceback and a host name), `error`
    KServe's, `detail` FastAPI's (there a list of `msg`) and RFC 7807's.
    """
    if depth == 0:
        return ""
    if isinstance(said, str):
        return words_of(loads_or_none(said.encode(errors="replace")), depth=depth - 1) if "{" in said[:1] else said
    if isinstance(said, list):
        return words_of(said[0], depth=depth - 1) if said else ""
    if isinstance(said, dict):
        keys = ("error_message", "error", "detail", "message", "msg", "title")
        return next(filter(None, (words_of(said.get(key), depth=depth - 1) for key in keys)), "")
    return ""


def loads_or_none(content: bytes | bytearray) -> Any:
    with suppress(Malformed):
        return loads(content)
    return None


def is_html(text: str) -> bool:
    return text.lstrip()[:15].lower().startswith(("<!doctype html", "<html"))


def _line(line: bytes | bytearray) -> str:
    return line.removesuffix(b"\r").decode(errors="replace")


def _retry_after(value: str) -> float | None:
    """Seconds, from either form of the header; None if it is missing or unreadable."""
    if not value:
        return None
    if value.isdecimal():
        return float(value)
    with suppress(ValueError, TypeError):
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    return None
