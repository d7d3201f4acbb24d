"""HttpPlatform: sends requests to a platform, repeats them where that is safe, and turns failures into PlatformErrors.

A request is repeated only if it has certainly not run a prediction: the connection was refused or broke while the
request was being sent, or the platform answered 429 or 503. A proxy answers 502 and 504 when the model died or was
slow in mid-prediction, so these are not repeated, and neither is a timeout or a connection that broke later.
"""

import json
import logging
import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from urllib3.exceptions import ReadTimeoutError

from platforms.base import (
    Call,
    InvalidInputs,
    Platform,
    PlatformError,
    PlatformTimeout,
    PlatformUnavailable,
    Unsupported,
    presentable,
)
from platforms.connection import BROKEN, Connection, Connections, InvalidRequest, url_of
from platforms.parsing import Malformed, NotJSON, loads, loads_or_none, words_of
from platforms.reply import Reply

__all__ = ["DEFAULT_MAX_RESPONSE_BYTES", "HttpPlatform", "Reply", "Request"]

logger = logging.getLogger(__name__)

MAX_TRIES = 5
DEFAULT_MAX_RESPONSE_BYTES = 50 * 1024 * 1024
BUSY = frozenset({429, 503})
"""Statuses that mean: not now, and no prediction has run."""
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `body` is sent as JSON unless it is None."""

    method: str
    url: str
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeat_on: frozenset[int] | None = None
    """Statuses after which it is repeated; None: those of its platform."""


class HttpPlatform(Platform):
    """Base of the platforms with an HTTP API."""

    repeat_on = BUSY
    first_wait_seconds = 0.2
    refusals = frozenset({400, 404, 409, 413, 415, 422})
    """Statuses that blame the caller's request. 404 means that the platform does not have the model."""

    def __init__(
        self,
        *,
        timeout_seconds: float,
        max_response_bytes: int = DEFAULT_MAX_RESPONSE_BYTES,
        api_key: str = "",
    ) -> None:
        self.timeout_seconds = timeout_seconds
        self.max_response_bytes = max_response_bytes
        self._api_key = api_key.strip()
        self._connections = Connections()

    def send_json(self, request: Request, call: Call, *, patience: Call | None = None) -> Any:
        """The parsed body of a 2xx. `patience`: see `open`. Raises as Platform.predict.

        An answer without Content-Type is text if it is not JSON (KServe models that return a string).
        """
        with self.open(request, call, patience=patience) as reply:
            self.check_status(reply)
            return self.decode(reply.read(self.max_response_bytes), reply.content_type)

    def look(self, request: Request, call: Call) -> tuple[int, Any]:
        """The status of an answer and its JSON, None if it has none. Does not repeat. Raises as `open_once`."""
        with self.open_once(request, call) as reply:
            return reply.status, loads_or_none(reply.beginning())

    def in_words(self, status: int, said: Any) -> str:
        """An answer for operators: `503: model is loading`, or only the number."""
        words = presentable(self.without_key(words_of(said)), fallback="")
        return f"{status}: {words}" if words else str(status)

    def get_docs(self, request: Request, call: Call) -> Any:
        """A model's documentation. Raises Unsupported for a 404, 405 and 501."""
        with self.open(request, call) as reply:
            if reply.status in (404, 405, 501):
                raise Unsupported("this model does not describe its inputs")
            self.check_status(reply)
            docs = self.decode(reply.read(self.max_response_bytes), reply.content_type)
        if not isinstance(docs, dict | list):
            raise PlatformError(f"the {self.name} platform answered something that is not a description of inputs")
        return docs

    def open(self, request: Request, call: Call, *, patience: Call | None = None) -> Reply:
        """The reply to a request, with any status. Repeats the request while that is safe.

        Stopping the `call` breaks the connection; stopping `patience` (where it is another) only ends the pauses.
        Raises as `open_once`.
        """
        repeat_on = self.repeat_on if request.repeat_on is None else request.repeat_on
        tries = 0
        while True:
            tries += 1
            try:
                reply = self.open_once(request, call)
            except PlatformUnavailable as error:
                reason, pause = error, None
            else:
                if tries == MAX_TRIES or reply.status not in repeat_on:
                    return reply
                reply.close()
                reason = PlatformUnavailable(f"the {self.name} platform is not available now ({reply.status})")
                pause = reply.retry_after
            if pause is None:
                pause = self.first_wait_seconds * 2 ** (tries - 1) * random.uniform(0.75, 1.25)
            if tries == MAX_TRIES or pause >= call.remaining():
                raise reason
            logger.info("%s, trying again: %s", reason, reason.__cause__ or "busy")
            (patience or call).wait(pause)

    def open_once(self, request: Request, call: Call) -> Reply:
        """The reply to one request. Until it is closed, stopping the call closes its connection.

        Raises PlatformUnavailable only if the request has certainly not been sent, other errors as Platform.predict.
        """
        body = _encode(request.body)
        headers = _headers(body, call, request.headers)
        try:
            url = url_of(request.url)
            connection = self._connections.take(url)
            try:
                answer = connection.ask(call, request.method, url, headers, body)
            except BROKEN as error:
                raise self._meaning_of(connection, call, error) from error
        except (InvalidRequest, UnicodeError):  # not kept as the cause: it may hold a key
            raise PlatformError(f"the settings of the {self.name} platform make no valid request") from None
        return Reply(connection, answer, call, partial(self._meaning_of, connection, call))

    def check_status(self, reply: Reply) -> None:
        """Raises the error for a status other than 2xx."""
        if reply.is_success:
            return
        content = reply.beginning()
        logger.info("%s answered %d: %s", self.name, reply.status, self.without_key(str(bytes(content[:200]))))
        said = words_of(loads_or_none(content))
        if reply.status in self.refusals and not self.is_our_fault(said):
            meant = "does not know this model" if reply.status == 404 else f"refused the request ({reply.status})"
            raise InvalidInputs(self.presentable(said, meant))
        if reply.status == 504:
            raise PlatformTimeout(f"the {self.name} platform's gateway gave up waiting (504)")
        if reply.status in BUSY:
            raise PlatformUnavailable(self.presentable(said, f"is not available ({reply.status})"))
        raise PlatformError(self.presentable(said, f"answered {reply.status}"))

    def is_our_fault(self, said: str) -> bool:
        """Whether a refusal is about our own configuration, not about the caller's inputs."""
        return False

    def decode(self, content: bytes | bytearray, content_type: str) -> Any:
        if not content and not content_type:
            return None
        try:
            return loads(content)
        except NotJSON as error:
            with suppress(UnicodeDecodeError):
                if not content_type and not is_html(text := content.decode()):
                    return text
            logger.warning("%s answered something that is not JSON (%s)", self.name, content_type or "no type")
            raise PlatformError(f"the {self.name} platform answered something that is not JSON") from error
        except Malformed as error:
            raise PlatformError(f"the answer of the {self.name} platform {error}") from error

    def presentable(self, said: object, otherwise: str) -> str:
        """A platform's message without its internals; `the … platform {otherwise}` if it has none."""
        fallback = f"the {self.name} platform {otherwise}"
        return presentable(self.without_key(said) if isinstance(said, str) else said, fallback=fallback)

    def without_key(self, text: str) -> str:
        return text.replace(self._api_key, "…") if self._api_key else text

    def _meaning_of(self, connection: Connection, call: Call, error: Exception) -> PlatformError:
        """The PlatformError for a connection's error. Raises as Call.check if the call is over or stopped."""
        call.check()
        if not connection.sent:
            return PlatformUnavailable(f"the {self.name} platform could not be reached")
        if isinstance(error, TimeoutError | ReadTimeoutError):
            return PlatformTimeout(f"the {self.name} platform did not answer in time")
        return PlatformError(f"the answer of the {self.name} platform broke off")


def is_html(text: str) -> bool:
    return text.lstrip()[:15].lower().startswith(("<!doctype html", "<html"))


def _encode(body: Any) -> bytes | None:
    try:
        return None if body is None else _ENCODER.encode(body).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidInputs("inputs: NaN, infinite numbers and very deep nesting cannot be sent") from error


def _headers(body: bytes | None, call: Call, headers: Mapping[str, str]) -> dict[str, str]:
    """Exactly `application/json`: with a charset behind it KServe 0.21 hands the model raw bytes."""
    made = {"Accept": "application/json", "User-Agent": "serving-agent"}
    if body is not None:
        made["Content-Type"] = "application/json"
    if call.request_id.isascii() and call.request_id.isprintable() and call.request_id.strip():
        made["X-Request-ID"] = call.request_id.strip()
    if call.traceparent:
        made["traceparent"] = call.traceparent
    return {**made, **headers}
