"""The supervisor's thread: heartbeats, jobs of lost workers, and time limits."""

import logging
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import redis
from django.conf import settings
from django.db import close_old_connections, connection
from rq.utils import import_attribute
from rq.worker import BaseWorker

from predictions.queue.scheduler import enqueue_once
from predictions.worker.active_runs import ActiveRuns
from predictions.worker.bookkeeping import Bookkeeping
from predictions.worker.runs import GIVE_UP, INIT_CHECK, PUT_BACK, Ending, RetryLater, Run

logger = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
TICK_SECONDS = 1.0
REACT_SECONDS = 8.0
"""How long a job may take to end after a stop, for which its platform may have to answer; then its slot is freed."""

_last_turn = time.monotonic()


def seconds_since_last_turn() -> float:
    """Seconds since this process's supervisor last turned its loop, which it does every TICK_SECONDS."""
    return time.monotonic() - _last_turn


class Supervisor(threading.Thread):
    def __init__(
        self,
        worker: BaseWorker,
        books: Bookkeeping,
        active: ActiveRuns,
        *,
        over: threading.Event,
        free_slot: Callable[[], None],
    ) -> None:
        """`over` ends the thread. `free_slot` frees the slot of a job that does not end."""
        super().__init__(name="supervisor", daemon=True)
        self._worker = worker
        self._books = books
        self._active = active
        self._over = over
        self._free_slot = free_slot
        self._beat_at = 0.0
        self._init_check_at = float("inf")

    def run(self) -> None:
        global _last_turn
        while not self._over.wait(TICK_SECONDS):
            _last_turn = time.monotonic()
            for duty in (self.tend_queues, self._enforce_limits):
                try:
                    duty()
                except redis.RedisError as error:
                    logger.debug("the supervisor got no answer from Redis: %s", error)
                except Exception:  # without its supervisor a worker would lose all its jobs
                    logger.exception("the supervisor of worker %s failed, and goes on", self._worker.name)

    def tend_queues(self) -> None:
        """Recovers the jobs of lost workers, and sends a heartbeat and queues an init check when they are due."""
        for queue in self._worker.queues:
            is_new, lost = self._books.tick(queue.name)
            if queue is self._worker.queues[0]:
                if lost:
                    logger.warning("%d tasks of lost workers wait again", len(lost))
                    _in_a_thread(put_back, lost, lost=True)
                if is_new:  # beats restore the running jobs at once, an init check then the waiting ones
                    self._beat_at = 0.0
                    if settings.ENABLE_PERIODIC_CHECK:
                        self._init_check_at = time.monotonic() + 2 * BEAT_SECONDS
        if time.monotonic() >= self._beat_at:
            self.beat()
            self._beat_at = time.monotonic() + BEAT_SECONDS
        if time.monotonic() >= self._init_check_at:
            enqueue_once(INIT_CHECK, turn_seconds=60)
            self._init_check_at = float("inf")

    def beat(self) -> None:
        """Renews the worker's registration and the leases of its runs."""
        state = "busy" if len(self._active) else "idle"
        for queue in self._worker.queues:
            runs = [run for run in self._active.all() if run.queue_name == queue.name]
            if not self._books.beat(queue.name, runs, state=state, ttl=self._worker.worker_ttl + 60):
                self._worker.connection.delete(self._worker.key)
                self._worker.register_birth()

    def _enforce_limits(self) -> None:
        moment = time.monotonic()
        for run in self._active.all():
            if run.is_settling:
                continue
            if run.stop_reason is None and moment >= run.deadline + 1:
                run.stop("timeout")
            elif run.stop_reason not in ("timeout", "canceled") or moment < run.stopped_at + REACT_SECONDS:
                continue
            elif run.claim_end():
                logger.error("job %s did not end when told to; its slot is given on", run.job_id)
                _in_a_thread(self._give_up, run)

    def _give_up(self, run: Run) -> None:
        """Ends a job that did not react to its stop, and frees its slot. The job keeps its thread."""
        becomes, exception = "finished", ""
        try:
            close_old_connections()
            import_attribute(GIVE_UP)(run.job_id, "the prediction did not end within its time limit")
        except RetryLater:
            becomes = "scheduled"
        except Exception:  # the job is archived instead, and the sweep fails its task
            becomes, exception = "failed", traceback.format_exc()
        finally:
            connection.close()
        self._active.store([Ending(run, becomes, exception)])
        self._free_slot()


def _in_a_thread(function: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    """So that a database that hangs does not delay the heartbeats."""
    threading.Thread(target=function, args=args, kwargs=kwargs, name=function.__name__, daemon=True).start()


def put_back(runs: list[tuple[str, str]], *, lost: bool) -> None:
    """Sets the tasks of these runs (task id, run id) to `pending`: their jobs wait in the queue again."""
    if not runs:
        return
    try:
        import_attribute(PUT_BACK)(runs, lost)
    finally:
        connection.close()
