"""One job in one slot: what it was given, when it must end, and which call its payload stands for."""

import json
import logging
import threading
import time
import zlib
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from django.conf import settings
from rq.utils import import_attribute

logger = logging.getLogger(__name__)

MODULES = ("predictions.jobs.", "predictions.maintenance.")
"""Where a job's function may live: what stands in Redis cannot name any other code."""
GIVE_UP = "predictions.jobs.give_up"
"""Called with (task id, why) for a job that cannot be run or did not end."""


class RetryLater(Exception):
    """Raised by a job: run it again after a wait that grows from one to thirty seconds."""


class HandBack(Exception):
    """Raised by a job that was told to end because its worker shuts down: it goes back to the queue's front."""


class BrokenPayload(Exception):
    """What Redis holds for a job is not a call of one of our functions."""


class Run:
    """One job in one slot. Exactly one thread may end it: whoever wins `claim_end`."""

    def __init__(
        self,
        job_id: str,
        execution_id: str,
        queue_name: str,
        data: bytes | None,
        *,
        timeout: float,
        attempt: int,
        outcome: str | None,
    ) -> None:
        self.job_id = job_id
        self.execution_id = execution_id
        self.queue_name = queue_name
        self.data = data
        self.attempt = attempt
        self.outcome = outcome
        self.started = time.monotonic()
        self.deadline = self.started + timeout
        self._on_stop: Callable[[str], None] | None = None
        self.stop_reason: str | None = None
        self.stopped_at = 0.0
        self.abandoned = False
        self._end_lock = threading.Lock()
        self._end_claimed = False

    @property
    def member(self) -> str:
        return f"{self.job_id}:{self.execution_id}"

    def remaining(self) -> float:
        """Seconds the job may still take."""
        return max(0.0, self.deadline - time.monotonic())

    def stops(self, stop: Callable[[str], None]) -> None:
        """Registers how the job's work is ended: `stop` is called with the reason, at once if it came before."""
        self._on_stop = stop
        if self.stop_reason is not None:
            stop(self.stop_reason)

    def stop(self, reason: str) -> None:
        """Tells the job to end. The first reason counts."""
        if self.stop_reason is None:
            self.stop_reason, self.stopped_at = reason, time.monotonic()
            if self._on_stop is not None:
                self._on_stop(reason)

    def claim_end(self) -> bool:
        with self._end_lock:
            if self._end_claimed:
                return False
            self._end_claimed = True
            return True


running: ContextVar[Run | None] = ContextVar("run", default=None)


def current_run() -> Run:
    """The run whose job is calling. Raises LookupError outside a worker."""
    run = running.get()
    if run is None:
        raise LookupError("no job is running here")
    return run


def run_of(job: list[Any], queue_name: str) -> Run:
    job_id, execution_id, data, timeout, attempt, outcome = job
    return Run(
        job_id.decode(),
        execution_id.decode(),
        queue_name,
        data,
        timeout=float(timeout or settings.TASK_TIMEOUT),
        attempt=int(attempt or 1),
        outcome=outcome.decode() if outcome else None,
    )


def call_of(run: Run) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
    """The call a job stands for; for a broken payload, the one that says so on the task."""
    try:
        return _parse(run.data)
    except BrokenPayload as error:
        logger.error("job %s is dropped: %s", run.job_id, error, extra={"task_id": run.job_id})
        return import_attribute(GIVE_UP), [run.job_id, "the job's payload was broken"], {}


def _parse(data: bytes | None) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
    if data is None:
        raise BrokenPayload("Redis holds nothing for it")
    try:
        name, instance, args, kwargs = json.loads(zlib.decompress(data))
    except (zlib.error, ValueError, TypeError) as error:
        raise BrokenPayload("it is not JSON as this agent writes it") from error
    if not (isinstance(name, str) and name.startswith(MODULES) and instance is None):
        raise BrokenPayload(f"it calls {name!r}, which is not a job of this agent")
    if not (isinstance(args, list) and isinstance(kwargs, dict)):
        raise BrokenPayload("its arguments are not a list and an object")
    try:
        return import_attribute(name), args, kwargs
    except (ValueError, AttributeError, ImportError) as error:
        raise BrokenPayload(f"there is no {name}") from error
