"""ThreadWorker: an RQ worker that runs WORKER_CONCURRENCY jobs at once, as threads of one process.

One thread claims jobs from Redis whenever a slot is free, the slots run them, and a supervisor sends heartbeats,
recovers the jobs of lost workers and enforces time limits. Each step is one script on RQ's own structures
(queue/worker_scripts.py), so RQ's registries, `rq info` and django-rq's pages stay true.
"""

import json
import logging
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import redis
from django.conf import settings
from django.db import close_old_connections
from rq.worker import BaseWorker

from predictions.worker.active_runs import ActiveRuns
from predictions.worker.bookkeeping import Bookkeeping
from predictions.worker.runs import Requeue, RetryLater, Run, call_of, running
from predictions.worker.slots import Slots
from predictions.worker.supervisor import Supervisor, put_back

logger = logging.getLogger(__name__)

WAIT_SECONDS = 1
HAND_BACK_SECONDS = 2.0
"""How long stopped jobs may take to go back to the queue by themselves."""
SETTLE_SECONDS = 15.0
"""How long a shutdown waits for results that are being recorded: longer than the wait for a database connection."""
TELL_SECONDS = 8.0
"""How long a shutdown tries to tell Redis how all jobs ended. The rows record it in any case."""


class ThreadWorker(BaseWorker):
    """Waits for jobs of its first queue, and claims those of its other queues once a second."""

    linger_seconds = 0.0
    """How long it still claims jobs after SIGTERM."""
    before_finishing: Callable[[], object] = staticmethod(bool)
    """Called after SIGTERM once it claims no more, and again when no job runs any more."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.concurrency: int = settings.WORKER_CONCURRENCY
        self.shutdown_seconds: float = settings.WORKER_SHUTDOWN_TIMEOUT
        self._books = Bookkeeping(self.name)
        self._stop_at = float("inf")
        self._taking = True
        self._hurry = threading.Event()
        self._over = threading.Event()
        """Set when the worker ends."""
        self._active = ActiveRuns(self._books, self._over)
        self._supervisor = Supervisor(
            self, self._books, self._active, over=self._over, free_slot=lambda: self._slots.release()
        )
        self._looked_at_others = 0.0
        self._silent_since = 0.0

    # --- overrides of RQ's base class

    def _set_connection(self, connection: Any) -> Any:
        return connection  # its timeouts are set in connections.py

    def _set_ip_address(self, connection: Any) -> None:
        self.ip_address = "unknown"  # only shown: no reason not to start
        with suppress(redis.RedisError):
            super()._set_ip_address(connection)

    def serialize(self) -> dict[str, Any]:
        return {**super().serialize(), "concurrency": self.concurrency}

    def work(
        self, burst: bool = False, max_jobs: int | None = None, max_idle_time: int | None = None, **ignored: Any
    ) -> bool:
        """Runs until a signal stops it, or with `burst` until the queue is empty. Returns whether it took any job."""
        self._slots = Slots(self.concurrency, self._perform)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self.request_stop)
            signal.signal(signal.SIGTERM, self.request_stop)
            signal.signal(signal.SIGTSTP, self.hold_or_resume)
            signal.signal(signal.SIGCONT, self.hold_or_resume)
        self._sign_on()
        self._supervisor.start()
        logger.info("worker %s takes up to %d jobs at once from %s", self.name, self.concurrency, self.queue_names())
        try:
            taken = self._take_jobs(burst, max_jobs, max_idle_time)
            if self._is_stopping:
                self.before_finishing()
            self._finish_runs()
            if self._is_stopping:
                self.before_finishing()
        finally:
            self._over.set()
            self._supervisor.join(timeout=5)
            try:
                self.register_death()
                self.unsubscribe()
            except redis.RedisError as error:
                logger.warning("worker %s could not sign off: %s", self.name, error)
        return taken > 0

    def _sign_on(self) -> None:
        """Registers this worker and subscribes to commands. Where Redis is away, the first heartbeat registers it."""
        with suppress(redis.RedisError):
            self.register_birth()
        while not self._is_stopping:
            try:
                self.subscribe()
                return
            except redis.RedisError as error:
                self._note_silence(error)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """After the first signal the worker finishes its jobs and takes no more; after the second it requeues them."""
        if self._stop_at < float("inf"):
            self._stop_at = 0.0
            self._hurry.set()
        else:
            self._stop_at = time.monotonic() + self.linger_seconds

    @property
    def _is_stopping(self) -> bool:
        return time.monotonic() >= self._stop_at

    def hold_or_resume(self, signum: int, frame: FrameType | None) -> None:
        """SIGTSTP: takes no more jobs. SIGCONT: takes jobs again."""
        self._taking = signum == signal.SIGCONT

    def handle_payload(self, message: Any) -> None:
        """RQ's remote commands: `stop-job` and `stop-execution` end one run, `shutdown` the worker."""
        payload = json.loads(message["data"])
        if payload.get("command") == "shutdown":
            os.kill(os.getpid(), signal.SIGTERM)
            return
        for run in self._active.all():
            if run.job_id == payload.get("job_id"):
                run.stop("canceled")

    def _pubsub_exception_handler(self, error: Exception, pubsub: Any, thread: Any) -> None:
        """Keeps listening after a lost connection or a garbled command."""
        logger.debug("worker %s: a remote command could not be read: %s", self.name, error)
        if self._over.wait(2):
            thread.stop()

    # --- taking

    def _take_jobs(self, burst: bool, max_jobs: int | None, max_idle_time: int | None) -> int:
        """Claims jobs until the worker stops. Returns how many."""
        taken = 0
        idle_since = time.monotonic()
        while not self._is_stopping and (max_jobs is None or taken < max_jobs):
            wanted = 1 if max_jobs is not None else self.concurrency
            free = self._slots.acquire(wanted, timeout=WAIT_SECONDS)
            runs = self._claim(free) if free and self._taking and not self._is_stopping else []
            self._slots.release(free - len(runs))
            for run in runs:
                self._active.add(run)
                self._slots.run(run)
            taken += len(runs)
            if runs or len(self._active):
                idle_since = time.monotonic()
            if runs or not free:
                continue
            if burst and not len(self._active):
                break
            if max_idle_time is not None and time.monotonic() - idle_since >= max_idle_time:
                break
            self._wait(0.02 if burst else WAIT_SECONDS)
        return taken

    def _claim(self, wanted: int) -> list[Run]:
        """Claims up to `wanted` jobs, once a second first from the other queues."""
        runs: list[Run] = []
        first = self.queues[0]
        turn = [first]
        if time.monotonic() - self._looked_at_others >= 1:
            self._looked_at_others = time.monotonic()
            turn = [*self.queues[1:], first]
        try:
            for queue in turn:
                if len(runs) == wanted:
                    break
                claimed, paused = self._books.claim(queue.name, wanted - len(runs))
                runs += claimed
                if paused and queue is first:
                    self._over.wait(0.2)  # `_wait` would return at once while jobs are in the queue
        except redis.RedisError as error:
            self._note_silence(error)
        else:
            self._silent_since = 0.0
        return runs

    def _wait(self, seconds: float) -> None:
        """Waits until a job comes, or `seconds`. The job stays in the queue, so none is lost if this process dies."""
        if not self._taking or seconds < WAIT_SECONDS:
            self._over.wait(min(seconds, 0.2))
            return
        key = self.queues[0].key
        try:
            self.connection.blmove(key, key, WAIT_SECONDS, "LEFT", "LEFT")
        except redis.RedisError as error:
            self._note_silence(error)

    def _note_silence(self, error: redis.RedisError) -> None:
        if not self._silent_since:
            self._silent_since = time.monotonic()
            logger.error("worker %s: Redis does not answer (%s), waiting for it", self.name, error)
        self._over.wait(min(2.0, 0.02 + time.monotonic() - self._silent_since))

    # --- running

    def _perform(self, run: Run) -> bool:
        """Runs a job and turns what it raises into one of RQ's states.

        Returns False where the supervisor gave the job up, or a shutdown requeued it, before it ended.
        """
        token = running.set(run)
        becomes, exception = "finished", ""
        try:
            close_old_connections()
            function, args, kwargs = call_of(run)
            function(*args, **kwargs)
        except RetryLater:
            becomes = "scheduled"
        except Requeue:
            becomes = "queued"
        except BaseException:  # SystemExit too: a job never ends its slot or the worker
            logger.exception("job %s failed", run.job_id, extra={"task_id": run.job_id})
            becomes, exception = "failed", traceback.format_exc()
        finally:
            running.reset(token)
            close_old_connections()
        if not run.claim_end():
            return False
        self._active.end(run, becomes, exception)
        self._active.report()
        return True

    # --- shutting down

    def _finish_runs(self) -> None:
        """Waits for the running jobs, and requeues those that take too long at the front."""
        self._wait_while(lambda: self._active.working() and not self._hurry.is_set(), self.shutdown_seconds)
        left = self._active.working()
        for run in reversed(left):
            run.stop("shutdown")
        self._wait_while(self._active.working, HAND_BACK_SECONDS)
        self._wait_while(lambda: any(run.is_settling for run in self._active.working()), SETTLE_SECONDS)
        unresponsive = [run for run in reversed(self._active.working()) if run.claim_end()]
        for run in unresponsive:
            self._active.end(run, "queued")
        if left:
            logger.warning("worker %s hands back %d running jobs", self.name, len(left))
        threading.Thread(target=self._active.report, name="farewell", daemon=True).start()
        put_back([(run.job_id, run.execution_id) for run in unresponsive], lost=False)
        self._wait_while(lambda: len(self._active), TELL_SECONDS)
        if len(self._active):
            logger.error(
                "Redis does not answer, so it does not know how %d jobs ended. Their leases lapse; those whose result "
                "is recorded do not run again",
                len(self._active),
            )

    def _wait_while(self, condition: Callable[[], object], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while condition() and time.monotonic() < deadline:
            time.sleep(0.02)
