"""A worker's bookkeeping of its runs in Redis. Each step is one script of queue/worker_scripts.py.

Every method raises redis.RedisError; is_lost (redis/errors.py) says whether that means "not now".
"""

import uuid
import zlib
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from rq.utils import utcformat

from predictions.queue import worker_scripts
from predictions.queue.queue import KEEP_FAILED_SECONDS, KEEP_FINISHED_SECONDS
from predictions.queue.scripts import run_script
from predictions.worker.runs import Ending, Run, run_of

LEASE_SECONDS = 25
"""Longer than a failover of Redis takes; a lost worker's jobs are found again after at most this, and a tick."""
MOST_LOSSES = 6
"""So many leases of one job may lapse; more than attempts, for a claim whose answer was lost was not one."""


class Bookkeeping:
    """A worker's leases."""

    def __init__(self, worker_name: str) -> None:
        self._worker_name = worker_name
        self._unanswered: tuple[str, list[str]] | None = None

    def claim(self, queue_name: str, wanted: int) -> tuple[list[Run], bool]:
        """Up to `wanted` jobs of the queue, and whether it is paused.

        After a claim that was not answered the next asks for the same again, whatever queue it names: Redis may have
        handed those jobs out.
        """
        if self._unanswered is None:
            self._unanswered = queue_name, [uuid.uuid4().hex for _ in range(wanted)]
        queue_name, executions = self._unanswered
        paused, *jobs = run_script(
            worker_scripts.CLAIM, queue_name, self._worker_name, LEASE_SECONDS, _moment(), *executions
        )
        self._unanswered = None
        return [run_of(job, queue_name) for job in jobs], bool(paused)

    def end(self, endings: Collection[Ending]) -> list[Ending]:
        """Ends runs; those are answered whose job another run has."""
        refused = []
        for ending in self._not_ended(endings):
            self.restore(ending.run)  # a beat may have done so just now: what counts is who holds the lease after it
            refused += self._not_ended([ending])
        return refused

    def _not_ended(self, endings: Collection[Ending]) -> list[Ending]:
        """Those of the endings that came to nothing."""
        left = []
        for queue_name in {ending.run.queue_name for ending in endings}:
            here = [ending for ending in endings if ending.run.queue_name == queue_name]
            args: list[Any] = []
            for run, becomes, exception in here:
                ttl = KEEP_FAILED_SECONDS if becomes == "failed" else KEEP_FINISHED_SECONDS
                args += [run.job_id, run.execution_id, becomes, ttl, run.seconds, zlib.compress(exception.encode())]
            answers = run_script(worker_scripts.END, queue_name, self._worker_name, _moment(), *args)
            left += [ending for ending, is_ended in zip(here, answers, strict=True) if not is_ended]
        return left

    def beat(self, queue_name: str, runs: Collection[Run], *, state: str, ttl: int) -> bool:
        """Extends the leases of these runs, and puts back those that Redis knows nothing of.

        Whether Redis still knows the worker, which it forgets after `ttl` seconds without a beat.
        """
        members = [run.member for run in runs]
        known, forgotten = run_script(
            worker_scripts.BEAT, queue_name, self._worker_name, LEASE_SECONDS, ttl, _moment(), state, *members
        )
        for run in runs:
            if run.member.encode() in forgotten:
                self.restore(run)
        return bool(known)

    def restore(self, run: Run) -> bool:
        """Puts back a run whose job Redis knows nothing of, because it was emptied; False where it does."""
        fields = [part for pair in run.fields.items() for part in pair]
        args = (self._worker_name, LEASE_SECONDS, _moment(), run.job_id, run.execution_id, *fields)
        return bool(run_script(worker_scripts.RESTORE, run.queue_name, *args))

    def tick(self, queue_name: str) -> tuple[bool, list[tuple[str, str]]]:
        """Queues due jobs and those of lost workers.

        Returns whether Redis knew nothing of the queue, because it is new or was emptied, and the runs (job id,
        execution id) of lost workers whose jobs wait in the queue again.
        """
        _, is_new, lost = run_script(worker_scripts.TICK, queue_name, LEASE_SECONDS, MOST_LOSSES)
        return bool(is_new), [tuple(member.decode().rsplit(":", 1)) for member in lost]


def _moment() -> str:
    """Now, as RQ writes it."""
    formatted: str = utcformat(datetime.now(UTC))
    return formatted
