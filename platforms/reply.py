"""Reply: reads a platform's answer within limits of size and time."""

from collections.abc import Callable, Iterator
from contextlib import suppress

from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from platforms.base import Call, PlatformError, PlatformTimeout
from platforms.connection import BROKEN, Answer, Connection

ERROR_BODY_SECONDS = 5.0
ERROR_BODY_BYTES = 64 * 1024
LONGEST_LINE_BYTES = 1024 * 1024


class AnswerTooLarge(PlatformError):
    """The answer, or a line of a streamed one, is too large to hold in memory."""


class Reply:
    """An answer whose headers have arrived, for a `with` block. `retry_after` in seconds, None without the header."""

    def __init__(
        self,
        connection: Connection,
        answer: Answer,
        call: Call,
        meaning_of: Callable[[Exception], PlatformError],
    ) -> None:
        """`meaning_of` turns an error of the connection into a PlatformError; it may raise CallStopped instead."""
        self.status = answer.status
        self.content_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        self.retry_after = _retry_after(answer.headers.get("retry-after", ""))
        self._connection = connection
        self._answer = answer
        self._call = call
        self._meaning_of = meaning_of
        self._is_closed = False

    def __enter__(self) -> "Reply":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the use of the connection."""
        if not self._is_closed:
            self._is_closed = True
            self._answer.close()
            self._connection.release(reusable=self._answer.connection_is_reusable)

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    def pieces(self) -> Iterator[bytes]:
        """The body, each piece as soon as it arrives."""
        try:
            yield from iter(self._answer.next_piece, b"")
        except BROKEN as error:
            raise self._meaning_of(error) from error
        self._call.check()  # a stop closes the connection, which looks like the end of a body without a length

    def read(self, at_most: int) -> bytearray:
        """The whole body. Raises AnswerTooLarge as soon as it is longer than `at_most` bytes."""
        content = bytearray()
        if (self._answer.length or 0) > at_most:
            raise AnswerTooLarge("the platform's answer is larger than MAX_RESPONSE_BODY")
        for piece in self.pieces():
            content += piece
            if len(content) > at_most:
                raise AnswerTooLarge("the platform's answer is larger than MAX_RESPONSE_BODY")
        return content

    def beginning(self) -> bytearray:
        """The start of an error's body, as far as it arrives soon. Its status counts even if the body breaks off."""
        content = bytearray()
        with self._call.part(ERROR_BODY_SECONDS) as part, suppress(PlatformTimeout, *BROKEN):
            self._connection.use_for(part)
            for piece in iter(self._answer.next_piece, b""):
                content += piece
                if len(content) >= ERROR_BODY_BYTES:
                    break
        self._call.check()
        return content

    def lines(self) -> Iterator[str]:
        """The body's lines without line ends, each as soon as it is complete. Raises AnswerTooLarge."""
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


def _line(line: bytes | bytearray) -> str:
    return line.removesuffix(b"\r").decode(errors="replace")


def _retry_after(value: str) -> float | None:
    """Seconds, from a number or a date; None if the header is missing or malformed."""
    if value:
        with suppress(InvalidHeader, ValueError, OverflowError):
            return Retry.DEFAULT.parse_retry_after(value)
    return None
