"""ThreadWorker: an RQ worker that runs WORKER_CONCURRENCY jobs at once, as threads of one process.

One thread takes jobs from Redis, and only when a slot is free; the slots run them; a supervisor beats for all of them,
finds the jobs of lost workers again, and enforces time limits. RQ's registries, `rq info` and django-rq's pages stay
true, because every step is one script on RQ's own structures (scripts.py).
"""

import json
import logging
import os
import queue as queues
import signal
import threading
import time
import traceback
import uuid
import zlib
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import redis
from django.conf import settings
from django.db import close_old_connections, connection
from rq.utils import import_attribute, utcformat
from rq.worker import BaseWorker

from predictions.queue import scripts
from predictions.queue.connections import is_lost, run_script
from predictions.queue.queue import KEEP_FAILED_SECONDS, KEEP_FINISHED_SECONDS, MAX_ATTEMPTS
from predictions.queue.runs import GIVE_UP, HandBack, RetryLater, Run, call_of, run_of, running

logger = logging.getLogger(__name__)

LEASE_SECONDS = 25
"""Longer than a failover of Redis takes; a lost worker's jobs are found again after at most this, and a tick."""
BEAT_SECONDS = 5.0
TICK_SECONDS = 1.0
REACT_SECONDS = 8.0
"""How long a job may take to end once told to (its platform may have to be told too); then its slot is given on."""
WAIT_SECONDS = 1


_last_turn = time.monotonic()


def seconds_since_last_turn() -> float:
    """How long ago this process's worker last turned its supervisor's loop, which it does every second."""
    return time.monotonic() - _last_turn


class ThreadWorker(BaseWorker):
    """Works on its first queue as jobs come, and looks at the others once a second."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stop_requested = False
        self.concurrency: int = settings.WORKER_CONCURRENCY
        self.shutdown_seconds: float = settings.TASK_TIMEOUT
        self._handed: queues.SimpleQueue[Run] = queues.SimpleQueue()
        self._runs: dict[str, Run] = {}
        self._slots = 0
        self._taking = True
        self._hurry = threading.Event()
        self._over = threading.Event()
        self._looked_at_others = 0.0
        self._completed = 0
        self._silent_since = 0.0

    # --- what RQ's base class asks

    def _set_connection(self, connection: Any) -> Any:
        return connection  # its timeouts are set in connections.py

    def serialize(self) -> dict[str, Any]:
        return {**super().serialize(), "concurrency": self.concurrency}

    def work(
        self, burst: bool = False, max_jobs: int | None = None, max_idle_time: int | None = None, **ignored: Any
    ) -> bool:
        """Runs until told to stop; with `burst` until the queue is empty. Whether it ran any job."""
        self._free = threading.Semaphore(self.concurrency)
        self.register_birth()
        self.subscribe()
        if threading.current_thread() is threading.main_thread():
            self._install_signal_handlers()
        supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        supervisor.start()
        logger.info("worker %s takes up to %d jobs at once from %s", self.name, self.concurrency, self.queue_names())
        try:
            self._take_jobs(burst, max_jobs, max_idle_time)
            self._finish_runs()
        finally:
            self._over.set()
            supervisor.join(timeout=5)
            self._say_goodbye()
        return self._completed > 0

    def _install_signal_handlers(self) -> None:
        signal.signal(signal.SIGINT, self.request_stop)
        signal.signal(signal.SIGTERM, self.request_stop)
        signal.signal(signal.SIGTSTP, self._take_none)
        signal.signal(signal.SIGCONT, self._take_again)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """The first signal: take nothing more and finish what runs. The second: hand back what runs."""
        if self._stop_requested:
            self._hurry.set()
        self._stop_requested = True

    def _take_none(self, signum: int, frame: FrameType | None) -> None:
        self._taking = False

    def _take_again(self, signum: int, frame: FrameType | None) -> None:
        self._taking = True

    def handle_payload(self, message: Any) -> None:
        """RQ's remote commands: `stop-job` and `stop-execution` end one run, `shutdown` the worker."""
        payload = json.loads(message["data"])
        if payload.get("command") == "shutdown":
            os.kill(os.getpid(), signal.SIGTERM)
            return
        for run in list(self._runs.values()):
            if run.job_id == payload.get("job_id"):
                run.stop("canceled")

    # --- taking

    def _take_jobs(self, burst: bool, max_jobs: int | None, max_idle_time: int | None) -> None:
        taken = 0
        idle_since = time.monotonic()
        while not self._stop_requested and (max_jobs is None or taken < max_jobs):
            wanted = 1 if max_jobs is not None else self.concurrency
            free = self._acquire_slots(wanted)
            runs = self._claim(free) if free and self._taking and not self._stop_requested else []
            for _ in range(free - len(runs)):
                self._free.release()
            for run in runs:
                self._hand_over(run)
            taken += len(runs)
            if runs or self._runs:
                idle_since = time.monotonic()
            if runs or not free:
                continue
            if burst and not self._runs:
                break
            if max_idle_time is not None and time.monotonic() - idle_since >= max_idle_time:
                break
            self._wait(0.02 if burst else WAIT_SECONDS)

    def _acquire_slots(self, wanted: int) -> int:
        """As many free slots as there are, up to `wanted`, waiting up to a second for the first."""
        if not self._free.acquire(timeout=WAIT_SECONDS):
            return 0
        free = 1
        while free < wanted and self._free.acquire(blocking=False):
            free += 1
        return free

    def _claim(self, wanted: int) -> list[Run]:
        """Up to `wanted` jobs, first from the queues that are looked at once a second."""
        runs: list[Run] = []
        turn = [self.queues[0]]
        if time.monotonic() - self._looked_at_others >= 1:
            self._looked_at_others = time.monotonic()
            turn = [*self.queues[1:], *turn]
        for queue in turn:
            if len(runs) < wanted:
                runs += self._claim_from(queue.name, wanted - len(runs))
        return runs

    def _claim_from(self, queue_name: str, wanted: int) -> list[Run]:
        executions = [uuid.uuid4().hex for _ in range(wanted)]
        try:
            paused, *jobs = self._script(scripts.CLAIM, queue_name, self.name, LEASE_SECONDS, _moment(), *executions)
        except redis.RedisError as error:
            self._note_silence(error)
            return []
        self._silent_since = 0.0
        if paused and queue_name == self.queues[0].name:
            self._over.wait(0.2)  # the wait below would return at once while jobs are there
        return [run_of(job, queue_name) for job in jobs]

    def _wait(self, seconds: float) -> None:
        """Until a job comes, or `seconds`. It only peeks: nothing is lost if this process dies while waiting."""
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
        self._over.wait(min(2.0, 0.2 + time.monotonic() - self._silent_since))

    # --- running

    def _hand_over(self, run: Run) -> None:
        self._runs[run.execution_id] = run
        if self._slots < self.concurrency and self._slots < len(self._runs):
            self._slots += 1
            threading.Thread(target=self._slot, name=f"slot-{self._slots}", daemon=True).start()
        self._handed.put(run)

    def _slot(self) -> None:
        while True:
            run = self._handed.get()
            self._perform(run)
            if run.abandoned:
                return
            self._completed += 1
            self._runs.pop(run.execution_id, None)
            self._free.release()

    def _perform(self, run: Run) -> None:
        """The outermost loop of a job: whatever it raises ends here, as something RQ knows."""
        token = running.set(run)
        becomes, exception = "finished", ""
        try:
            close_old_connections()
            function, args, kwargs = call_of(run)
            function(*args, **kwargs)
        except RetryLater:
            becomes = "scheduled"
        except HandBack:
            becomes = "queued"
        except (Exception, SystemExit):
            logger.exception("job %s failed", run.job_id, extra={"task_id": run.job_id})
            becomes, exception = "failed", traceback.format_exc()
        finally:
            running.reset(token)
            close_old_connections()
        if run.claim_end():
            self._end(run, becomes, exception)

    def _end(self, run: Run, becomes: str, exception: str = "", *, patience: float = float("inf")) -> None:
        """Tells Redis, again and again while it is away: until then the lease is kept, so nobody runs it twice."""
        deadline = time.monotonic() + patience
        ttl = KEEP_FAILED_SECONDS if becomes == "failed" else KEEP_FINISHED_SECONDS
        seconds = time.monotonic() - run.started
        args = (run.job_id, run.execution_id, _moment(), becomes, ttl, seconds, zlib.compress(exception.encode()))
        pause = 0.1
        while True:
            try:
                if not self._script(scripts.END, run.queue_name, self.name, *args):
                    logger.warning("job %s had been given to another run", run.job_id, extra={"task_id": run.job_id})
                return
            except redis.RedisError as error:
                if not is_lost(error) or time.monotonic() > deadline or self._over.wait(pause):
                    logger.error("how job %s ended could not be stored: %s", run.job_id, error)
                    return
                pause = min(3.0, pause * 2)

    # --- supervising

    def _supervise(self) -> None:
        global _last_turn
        beat_at = 0.0
        while not self._over.wait(TICK_SECONDS):
            _last_turn = time.monotonic()
            try:
                for queue in self.queues:
                    self._script(scripts.TICK, queue.name, LEASE_SECONDS, MAX_ATTEMPTS + 1)
                if time.monotonic() >= beat_at:
                    self._beat()
                    beat_at = time.monotonic() + BEAT_SECONDS
            except redis.RedisError as error:
                logger.debug("the supervisor got no answer from Redis: %s", error)
            except Exception:  # without its supervisor a worker would lose all its jobs
                logger.exception("the supervisor of worker %s failed, and goes on", self.name)
            self._enforce_limits()

    def _beat(self) -> None:
        state = "busy" if self._runs else "idle"
        for queue in self.queues:
            members = [run.member for run in list(self._runs.values()) if run.queue_name == queue.name]
            known = self._script(
                scripts.BEAT, queue.name, self.name, LEASE_SECONDS, self.worker_ttl + 60, _moment(), state, *members
            )
            if not known:
                self.connection.delete(self.key)
                self.register_birth()

    def _enforce_limits(self) -> None:
        moment = time.monotonic()
        for run in list(self._runs.values()):
            if run.stop_reason is None and moment >= run.deadline + 1:
                run.stop("timeout")
            elif run.stop_reason in ("timeout", "canceled") and moment >= run.stopped_at + REACT_SECONDS:
                self._abandon(run)

    def _abandon(self, run: Run) -> None:
        """A job that does not react keeps its thread, but no longer its slot."""
        run.abandoned = True
        if not run.claim_end():
            run.abandoned = False
            return
        logger.error("job %s did not end when told to; its slot is given on", run.job_id)
        threading.Thread(target=self._give_up, args=(run,), name="give-up", daemon=True).start()

    def _give_up(self, run: Run) -> None:
        """In a thread of its own: a database that hangs must not keep the supervisor from its beats."""
        becomes, exception = "finished", ""
        try:
            close_old_connections()
            import_attribute(GIVE_UP)(run.job_id, "the prediction did not end within its time limit")
        except Exception:  # archived instead: the sweep says so on the task
            becomes, exception = "failed", traceback.format_exc()
        finally:
            connection.close()
        self._end(run, becomes, exception)
        self._runs.pop(run.execution_id, None)
        self._slots -= 1
        self._free.release()

    # --- shutting down

    def _finish_runs(self) -> None:
        """Waits for the running jobs; those that take too long go back to the queue's front."""
        deadline = time.monotonic() + self.shutdown_seconds
        while self._runs and time.monotonic() < deadline and not self._hurry.is_set():
            time.sleep(0.05)
        left = list(self._runs.values())
        for run in reversed(left):
            run.stop("shutdown")
        grace = time.monotonic() + 2
        while self._runs and time.monotonic() < grace:
            time.sleep(0.02)
        for run in reversed(list(self._runs.values())):
            if run.claim_end():
                self._end(run, "queued", patience=REACT_SECONDS)
        if left:
            logger.warning("worker %s handed back %d running jobs", self.name, len(left))

    def _say_goodbye(self) -> None:
        try:
            self.register_death()
            self.unsubscribe()
        except redis.RedisError as error:
            logger.warning("worker %s could not sign off: %s", self.name, error)

    def _script(self, source: str, queue_name: str, *args: Any) -> Any:
        return run_script(source, keys=[scripts.queue_key(queue_name)], args=scripts.arguments(queue_name, *args))


def _moment() -> str:
    formatted: str = utcformat(datetime.now(UTC))
    return formatted
