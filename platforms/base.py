"""What every platform is: the interface, the call that can be stopped, and the errors.

PlatformError                  the prediction failed: unreachable, 5xx, an unreadable answer
├── InvalidInputs              the platform refused what the caller sent
├── PlatformUnavailable        no answer, or 429 and 503 after all repeats
├── PlatformTimeout            no answer within the time a prediction may take
└── Unsupported                the platform lacks this function (streaming, docs)
CallStopped                    no error of the platform: a cancel, hang-up or shutdown ended the call
"""

import math
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from platforms.health import Health, ok


class PlatformError(Exception):
    """The platform failed; the message may be shown to the caller."""

    outcome = "platform_error"


class InvalidInputs(PlatformError):
    """The platform refused the inputs; the message says why, in the platform's words where it gave any."""

    outcome = "invalid_inputs"


class PlatformUnavailable(PlatformError):
    """The platform could not be reached, or said that it cannot serve now."""

    outcome = "platform_unavailable"


class PlatformTimeout(PlatformError):
    """The platform did not answer in time; whether the prediction ran is unknown."""

    outcome = "platform_timeout"


class Unsupported(PlatformError):
    """The platform has no such function."""

    outcome = "unsupported"


class StopReason(StrEnum):
    CANCELED = "canceled"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"


class CallStopped(Exception):
    """The call was ended from here before the platform answered."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(f"the call was stopped: {reason}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class PredictionResult:
    """A platform's answer. `running_time` in seconds, None if the platform does not report it."""

    outputs: Any
    running_time: float | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """A request to a platform."""

    model_name: str
    inputs: Mapping[str, Any]
    model_version: str = ""
    upload_webhook: str = ""
    """Where the model may upload files. Only KServe and plain services get it."""

    def inputs_alone(self) -> dict[str, Any]:
        """The inputs without an `upload_webhook`: one that the caller sent is never handed on."""
        return {name: value for name, value in self.inputs.items() if name != "upload_webhook"}

    def inputs_with_upload(self) -> dict[str, Any]:
        """The inputs, and our own `upload_webhook` if there is one."""
        return self.inputs_alone() | ({"upload_webhook": self.upload_webhook} if self.upload_webhook else {})


@dataclass(frozen=True, slots=True)
class Chunk:
    """One piece of a streamed prediction, as it goes to the caller."""

    id: int
    data: str


class Call:
    """One prediction in flight: how long it may still take, and how another thread ends it.

    Code that blocks registers a function that unblocks it (`closing`). `stop` calls these from any thread, once.
    """

    def __init__(
        self,
        *,
        timeout_seconds: float,
        request_id: str = "",
        traceparent: str = "",
        upstream_id: str = "",
        on_submitted: Callable[[str], None] | None = None,
        on_upstream_cancel: Callable[[str], None] | None = None,
    ) -> None:
        """`request_id` and `traceparent` (W3C trace context) are sent on to the platform.

        `upstream_id` is the platform's job of an earlier attempt, to be waited for instead of a new one.

        `on_submitted` gets the id of a new job before the first poll; if it raises, the platform's job is canceled and
        the error propagates. `on_upstream_cancel` gets the result of canceling the job; it must not raise.
        """
        self.request_id = request_id
        self.traceparent = traceparent
        self.upstream_id = upstream_id
        self.deadline = time.monotonic() + timeout_seconds
        self.reason: StopReason | None = None
        self._on_submitted = on_submitted
        self._on_upstream_cancel = on_upstream_cancel
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._closers: list[Callable[[], None]] = []

    def remaining(self, at_most: float = float("inf")) -> float:
        """Seconds left, never below 0."""
        return max(0.0, min(self.deadline - time.monotonic(), at_most))

    def shorten(self, timeout_seconds: float) -> None:
        """Brings the deadline forward to `timeout_seconds` from now, if that is earlier."""
        self.deadline = min(self.deadline, time.monotonic() + timeout_seconds)

    def stop(self, reason: StopReason) -> None:
        """Ends the call from outside; the first reason counts."""
        with self._lock:
            if self.reason is not None:
                return
            self.reason = reason
            closers = list(self._closers)
        self._stopped.set()
        for close in closers:
            close()

    @contextmanager
    def part(self, timeout_seconds: float) -> Iterator["Call"]:
        """A shorter call within this one, which stops with it. Raises as `on_stop`."""
        part = Call(
            timeout_seconds=self.remaining(timeout_seconds), request_id=self.request_id, traceparent=self.traceparent
        )
        with self.closing(lambda: part.stop(self.reason or StopReason.CANCELED)):
            yield part

    def submitted(self, upstream_id: str) -> None:
        """The platform reports the id of its job for this call. Raises the errors of the hook."""
        self.upstream_id = upstream_id
        if self._on_submitted is not None:
            self._on_submitted(upstream_id)

    def canceled_upstream(self, note: str) -> None:
        """Told by the platform: `canceled`, `already finished`, `refused (404)` or NO_ANSWER."""
        if self._on_upstream_cancel is not None:
            self._on_upstream_cancel(note)

    @contextmanager
    def closing(self, close: Callable[[], None]) -> Iterator[None]:
        """Inside the block `close` ends what blocks. Raises as `on_stop`."""
        self.on_stop(close)
        try:
            yield
        finally:
            self.forget(close)

    def on_stop(self, close: Callable[[], None]) -> None:
        """From now on `close` ends what blocks; it must be safe to call from another thread.

        Raises CallStopped at once if the call has been stopped before, and PlatformTimeout if its time is over.
        """
        self.check()
        with self._lock:
            self._closers.append(close)
            is_late = self.reason is not None
        if is_late:  # `stop` came between these lines and did not call it
            self.forget(close)
            self.check()

    def forget(self, close: Callable[[], None]) -> None:
        """Nothing blocks any more that `close` would end."""
        with self._lock:
            self._closers.remove(close)

    def check(self) -> None:
        """Raises CallStopped, or PlatformTimeout once the deadline has passed."""
        if self.reason is StopReason.TIMEOUT or (self.reason is None and time.monotonic() >= self.deadline):
            raise PlatformTimeout("the platform did not answer in time")
        if self.reason is not None:
            raise CallStopped(self.reason)

    def wait(self, seconds: float) -> None:
        """Sleeps, but not beyond the deadline, and wakes when the call is stopped. Raises as `check`."""
        self._stopped.wait(self.remaining(seconds))
        self.check()


NO_ANSWER = "no answer"
"""What `canceled_upstream` hears of a platform that did not answer."""


class Platform(ABC):
    """Something that runs models. Constructors take plain values; `timeout_seconds` bounds one prediction."""

    name: str
    timeout_seconds: float
    takes_upload_address = False
    """Whether models there get an upload address."""

    @abstractmethod
    def predict(self, prediction: Prediction, call: Call) -> PredictionResult:
        """Runs one prediction and waits for it.

        Raises PlatformError (see the tree above) and CallStopped.
        """

    def stream(self, prediction: Prediction, call: Call) -> Generator[Chunk, None, None]:
        """Runs one prediction and yields its pieces, each the moment it comes.

        Errors are those of `predict`, from the first `next` on; Unsupported where the platform cannot stream. Closing
        the generator or stopping the call closes the connection, and cancels the platform's job where it has one.
        """
        raise Unsupported(f"the {self.name} platform cannot stream")

    def cancel(self, upstream_id: str, call: Call) -> None:  # noqa: B027  (most platforms have nothing to cancel)
        """Cancels a job that no process waits for any more; `call.canceled_upstream` gets the result.

        Does nothing on platforms without jobs. Raises nothing of the platform's.
        """

    def docs(self, model_name: str, call: Call) -> Any:
        """The model's own description of its inputs. Raises as `predict`; Unsupported where there is none."""
        raise Unsupported(f"the {self.name} platform has no input documentation")

    def models(self) -> list[str]:
        """The names of the models, where the platform knows them without a request; else an empty list."""
        return []

    def check(self, model_name: str, call: Call) -> Health:
        """Whether predictions could run, as far as the platform tells without running (and charging for) one.

        With an empty `model_name` it checks only the platform. Raises PlatformError if the platform does not answer.
        """
        return ok(f"the {self.name} platform has no health check; run a prediction to test it")


_RUNNING_TIME = re.compile(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*s?\s*", re.IGNORECASE)


def parse_running_time(value: object) -> float | None:
    """Seconds out of `"0.0146s"`, `"3.98e-05s"` or a number (kservehelper's forms); None if it is none of these."""
    if isinstance(value, str):
        match = _RUNNING_TIME.fullmatch(value)
        value = match[1] if match else None
    if value is None or isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return seconds if seconds >= 0 and math.isfinite(seconds) else None


def lift_running_time(outputs: Any) -> PredictionResult:
    """Takes `running_time` out of an outputs object, where there is one."""
    if isinstance(outputs, dict) and (seconds := parse_running_time(outputs.get("running_time"))) is not None:
        rest = {name: value for name, value in outputs.items() if name != "running_time"}
        return PredictionResult(rest, seconds)
    return PredictionResult(outputs)


_SECRETIVE = re.compile(
    r"[a-z][a-z0-9+.-]{0,20}://\S+"  # addresses
    r"|(?:/[\w.@-]+){2,}/?"  # paths
    r"|\b[\w-]+(?:\.[\w-]+)*:\d{2,5}\b"  # host:port
    r"|\b(?:[\w-]+\.)+(?:local|internal|svc|com|org|net|io|ai|dev)\b"  # host names
    r"|\b\d{1,3}(?:\.\d{1,3}){3}\b"  # IPv4
    r"|\b(?:Bearer|Token)\s+\S+"
    r"|\b(?:r8|rpa)_\w{8,}",  # Replicate's and RunPod's keys
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]+")


def presentable(message: object, *, fallback: str) -> str:
    """A foreign error message fit for a caller: its first line, without addresses, paths, hosts and tokens."""
    text = str(message)[:4000].strip() if isinstance(message, str | int | float) else ""
    if not text or text.startswith(("<", "Traceback")):
        return fallback
    line = _SECRETIVE.sub("…", _CONTROL.sub(" ", text.splitlines()[0][:1000])).strip()
    return line[:500] or fallback
