"""One job in one slot: its fields, its deadline and the function it calls."""

import json
import logging
import threading
import time
import zlib
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

from django.conf import settings
from rq.utils import import_attribute

logger = logging.getLogger(__name__)

FUNCTIONS = frozenset(
    f"predictions.jobs.{name}"
    for name in ("run_prediction", "give_up", "put_back", "init_check", "sweep_archive", "purge_tasks", "count_ended")
)
"""The only functions that a job in Redis can name."""
RENAMED = {
    "predictions.maintenance.init_check_job": "predictions.jobs.init_check",
    "predictions.maintenance.sweep_archive_job": "predictions.jobs.sweep_archive",
    "predictions.maintenance.purge_tasks_job": "predictions.jobs.purge_tasks",
    "predictions.maintenance.tally_job": "predictions.jobs.count_ended",
}
"""The names that release 0.1 wrote into Redis: its jobs may still wait when this release starts."""
GIVE_UP = "predictions.jobs.give_up"
"""Called with (task id, why) for a job that cannot be run or did not end."""
PUT_BACK = "predictions.jobs.put_back"
"""Called with ([(task id, run id)], lost) for runs whose jobs wait in the queue again."""
INIT_CHECK = "predictions.jobs.init_check"
"""Queued where Redis turns out to know nothing of a queue."""


class RetryLater(Exception):
    """Raised by a job: run it again after a wait that grows from one to thirty seconds."""


class Requeue(Exception):
    """Raised by a job that its worker's shutdown stopped: it goes back to the front of the queue."""


class BrokenPayload(Exception):
    """What Redis holds for a job is not a call of one of our functions."""


class Run:
    """One job in one slot. Exactly one thread may end it: the one for which `claim_end` returns True."""

    def __init__(self, job_id: str, execution_id: str, queue_name: str, fields: dict[bytes, bytes]) -> None:
        """`fields` are the job's hash as it was before the claim."""
        self.job_id = job_id
        self.execution_id = execution_id
        self.queue_name = queue_name
        self.fields = fields
        self.started = time.monotonic()
        try:
            limit = float(fields.get(b"timeout") or settings.TASK_TIMEOUT)
        except ValueError:  # not written by this agent
            limit = float(settings.TASK_TIMEOUT)
        self.deadline = self.started + limit
        self.stop_reason: str | None = None
        self.stopped_at = 0.0
        self.is_settling = False
        """Whether its prediction has ended, and only the record of it is still to be made: no limit holds for that."""
        self._on_stop: Callable[[str], None] | None = None
        self._end_lock = threading.Lock()
        self.has_ended = False
        """Whether a thread has ended it. Redis may not know yet."""
        self.seconds = 0.0
        """How long it took, once it has ended."""

    @property
    def member(self) -> str:
        return f"{self.job_id}:{self.execution_id}"

    @property
    def outcome(self) -> str | None:
        """The outcome of an earlier run, if it could not be written yet."""
        outcome = self.fields.get(b"outcome")
        return outcome.decode() if outcome else None

    @property
    def lost(self) -> list[str]:
        """The earlier runs of the job whose worker was lost."""
        return self.fields.get(b"lost", b"").decode().split()

    @property
    def handed_back(self) -> list[str]:
        """The earlier runs of the job that gave it back."""
        return self.fields.get(b"handed_back", b"").decode().split()

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
            if self.has_ended:
                return False
            self.has_ended = True
        self.seconds = time.monotonic() - self.started
        return True


class Ending(NamedTuple):
    """How a run ended. `becomes` is the next state of its job, see worker_scripts.END."""

    run: Run
    becomes: str
    exception: str = ""


running: ContextVar[Run | None] = ContextVar("run", default=None)


def current_run() -> Run:
    """The run whose job is calling. Raises LookupError outside a worker."""
    run = running.get()
    if run is None:
        raise LookupError("no job is running here")
    return run


def run_of(job: list[Any], queue_name: str) -> Run:
    job_id, execution_id, fields = job
    return Run(job_id.decode(), execution_id.decode(), queue_name, dict(zip(fields[::2], fields[1::2], strict=True)))


def call_of(run: Run) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
    """The call a job stands for; for a broken payload, the one that says so on the task."""
    try:
        return _parse(run.fields.get(b"data"))
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
    function = RENAMED.get(name, name) if isinstance(name, str) else ""
    if function not in FUNCTIONS or instance is not None:
        raise BrokenPayload(f"it calls {name!r}, which is not a job of this agent")
    if not (isinstance(args, list) and isinstance(kwargs, dict)):
        raise BrokenPayload("its arguments are not a list and an object")
    return import_attribute(function), args, kwargs
