"""The state of this agent's queue and workers for operators, in one round trip.

`Overview` is one consistent moment: it is read by one script.
"""

import json
from dataclasses import dataclass

from django.conf import settings

from predictions.queue import scripts
from predictions.queue.queue import run_on_queue

ALIVE_SECONDS = 25
"""A worker beats every five seconds; one that was silent for longer than a lease has lost its jobs to others."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process that this queue's jobs go to."""

    name: str
    host: str
    pid: int
    slots: int
    running: int
    silent_seconds: float

    @property
    def is_alive(self) -> bool:
        return self.silent_seconds < ALIVE_SECONDS


@dataclass(frozen=True, slots=True)
class Overview:
    """The queue as it stands. `scheduled` jobs wait for their time: a retry, or a record to be written again."""

    queued: int
    scheduled: int
    running: int
    archived: int
    paused_by: str
    """Who paused the queue; empty while it hands out jobs."""
    workers: tuple[Worker, ...]

    @property
    def waiting(self) -> int:
        return self.queued + self.scheduled

    @property
    def workers_alive(self) -> int:
        return sum(worker.is_alive for worker in self.workers)

    @property
    def slots(self) -> int:
        """How many predictions the workers that are alive can run at once."""
        return sum(worker.slots for worker in self.workers if worker.is_alive)


def overview() -> Overview:
    """The queue of this agent and its workers, now. Raises QueueUnavailable."""
    sizes, paused, now, *workers = run_on_queue(scripts.OVERVIEW)
    queued, scheduled, running, archived = (int(size) for size in sizes)
    return Overview(
        queued=queued,
        scheduled=scheduled,
        running=running,
        archived=archived,
        paused_by=str(json.loads(paused)["who"]) if paused else "",
        workers=tuple(
            Worker(
                name=name.decode(),
                host=(host or b"").decode(),
                pid=int(pid or 0),
                slots=int(slots or settings.WORKER_CONCURRENCY),
                running=int(running),
                silent_seconds=float(now) - float(beat_at) if beat_at else 0.0,
            )
            for name, host, pid, slots, running, beat_at in sorted(workers)
        ),
    )
