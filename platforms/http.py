"""HttpPlatform: kept connections, one deadline over everything, safe repeats, foreign errors made ours.

A request is repeated only if it has certainly not run a prediction: the connection was never made or broke while the
request was still being sent, or the platform answered 429 or 503. A proxy answers 502 and 504 when the model died or
was slow in mid-prediction, so these are not repeated, and neither is a timeout or a connection that broke while the
answer was awaited.
"""

import json
import logging
import random
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

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
from platforms.connections import Connections, Exchange
from platforms.parsing import Malformed, NotJSON
from platforms.reply import Reply, is_html, loads, loads_or_none, words_of
from platforms.wire import INVALID_REQUEST, ask

__all__ = ["DEFAULT_MAX_RESPONSE_BYTES", "HttpPlatform", "Reply", "Request"]

logger = logging.getLogger(__name__)

MAX_TRIES = 5
DEFAULT_MAX_RESPONSE_BYTES = 50 * 1024 * 1024
BUSY = frozenset({429, 503})
"""Statuses that mean: not now, and nothing was run."""
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True, slots=True)
class Request:
    """A request. `body` is sent as JSON unless it is None; `timeout_seconds` limits this request within its call."""

    method: str
    url: str
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float = float("inf")
    repeat_on: frozenset[int] | None = None
    """Statuses after which it is sent again; None: those of its platform."""


class HttpPlatform(Platform):
    """Base of the platforms that are reached over HTTP."""

    repeat_on = BUSY
    first_wait_seconds = 0.2
    refusals = frozenset({400, 404, 409, 413, 415, 422})
    """Statuses for a fault of the caller's request. 404 means an unknown model."""

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
        """The parsed answer to a request, a 2xx. `patience`: see `open`. Raises as Platform.predict.

        An answer without Content-Type is text if it is not JSON (KServe models that return a string).
        """
        with self.open(request, call, patience=patience) as reply:
            self.check_status(reply)
            return self.decode(reply.read(self.max_response_bytes), reply.content_type)

    def look(self, request: Request, call: Call) -> tuple[int, Any]:
        """The status of an answer and its JSON, from one request without repeats. Raises as `open_once`."""
        with self.open_once(request, call) as reply:
            return reply.status, loads_or_none(reply.beginning())

    def in_words(self, status: int, said: Any) -> str:
        """An answer for operators: `503: model is loading`, or the bare number."""
        words = presentable(self.without_key(words_of(said)), fallback="")
        return f"{status}: {words}" if words else str(status)

    def get_docs(self, request: Request, call: Call) -> Any:
        """The answer to a request for a model's documentation. Raises Unsupported for a 404, 405 and 501."""
        with self.open(request, call) as reply:
            if reply.status in (404, 405, 501):
                raise Unsupported("this model does not describe its inputs")
            self.check_status(reply)
            docs = self.decode(reply.read(self.max_response_bytes), reply.content_type)
        if not isinstance(docs, dict | list):
            raise PlatformError(f"the {self.name} platform answered something that is not a description of inputs")
        return docs

    def open(self, request: Request, call: Call, *, patience: Call | None = None) -> Reply:
        """The reply to a request, of whatever status; the request is repeated while that is safe.

        Stopping the `call` breaks the connection; stopping `patience` (where it is another) only ends the pauses.
        Raises as `open_once`.
        """
        tries = 0
        while True:
            tries += 1
            try:
                reply = self.open_once(request, call)
            except PlatformUnavailable as error:
                reason, pause = error, None
            else:
                if tries == MAX_TRIES or not self._may_repeat(request, reply):
                    return reply
                reply.close()
                reason, pause = self._not_now(reply), reply.retry_after
            if pause is None:
                pause = self.first_wait_seconds * 2 ** (tries - 1) * random.uniform(0.75, 1.25)
            if tries == MAX_TRIES or pause >= call.remaining():
                raise reason
            logger.info("%s, trying again: %s", reason, reason.__cause__ or "busy")
            (patience or call).wait(pause)

    def open_once(self, request: Request, call: Call) -> Reply:
        """The reply to one request; until it is closed, stopping the call breaks its connection.

        Raises PlatformUnavailable only if the request has certainly not been sent, other errors as Platform.predict.
        """
        exchange = Exchange(min(call.deadline, time.monotonic() + request.timeout_seconds))
        body = _encode(request.body)
        headers = _headers(body, call, request.headers)
        call.on_stop(exchange.close)
        with ExitStack() as on_error:
            on_error.callback(call.forget, exchange.close)
            try:
                answer = ask(self._connections, exchange, request.method, request.url, headers, body)
            except INVALID_REQUEST:  # not kept as the cause
                raise PlatformError(f"the settings of the {self.name} platform make no valid request") from None
            except OSError as error:
                raise self._meaning_of(exchange, call, error) from error
            on_error.pop_all()
        return Reply(answer, exchange, call, partial(self._meaning_of, exchange, call))

    def check_status(self, reply: Reply) -> None:
        """Raises a PlatformError for an answer other than 2xx."""
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
        """Whether a refusal concerns this agent's configuration, not the caller's request."""
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
        """A foreign message fit for a caller, or else `the … platform {otherwise}`."""
        fallback = f"the {self.name} platform {otherwise}"
        return presentable(self.without_key(said) if isinstance(said, str) else said, fallback=fallback)

    def without_key(self, text: str) -> str:
        return text.replace(self._api_key, "…") if self._api_key else text

    def _may_repeat(self, request: Request, reply: Reply) -> bool:
        return reply.status in (self.repeat_on if request.repeat_on is None else request.repeat_on)

    def _not_now(self, reply: Reply) -> PlatformUnavailable:
        return PlatformUnavailable(f"the {self.name} platform is not available now ({reply.status})")

    def _meaning_of(self, exchange: Exchange, call: Call, error: Exception) -> PlatformError:
        """The PlatformError for an error of a connection. Raises CallStopped if the call was stopped."""
        call.check()
        if not exchange.sent:
            return PlatformUnavailable(f"the {self.name} platform could not be reached")
        if isinstance(error, TimeoutError):
            return PlatformTimeout(f"the {self.name} platform did not answer in time")
        return PlatformError(f"the answer of the {self.name} platform broke off")


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
