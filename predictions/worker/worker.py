"""ThreadWorker: an RQ worker that runs WORKER_CONCURRENCY jobs at once, as threads of one process.

One thread takes jobs from Redis, and only when a slot is free; the slots run them; a supervisor beats for all of them,
finds the jobs of lost workers again, and enforces time limits. RQ's registries, `rq info` and django-rq's pages stay
true, because every step is one script on RQ's own structures (scripts.py).
"""

import json
import logging
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import redis
from django.conf import settings
from django.db import close_old_connections, connection
from rq.utils import import_attribute
from rq.worker import BaseWorker

from predictions.queue.scheduler import enqueue_once
from predictions.redis.connections import is_lost
from predictions.worker.bookkeeping import Bookkeeping
from predictions.worker.runs import GIVE_UP, INIT_CHECK, PUT_BACK, Ending, Requeue, RetryLater, Run, call_of, running
from predictions.worker.slots import Slots

logger = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
TICK_SECONDS = 1.0
REACT_SECONDS = 8.0
"""How long a job may take to end once told to (its platform may have to be told too); then its slot is given on."""
WAIT_SECONDS = 1
HAND_BACK_SECONDS = 2.0
"""How long jobs that are handed back may take to end by themselves."""
SETTLE_SECONDS = 15.0
"""How long a shutdown waits for results that are being recorded: longer than for a database connection."""
TELL_SECONDS = 8.0
"""How long a shutdown tries to tell Redis how all jobs ended. If it cannot, the rows still say so."""


_last_turn = time.monotonic()


def seconds_since_last_turn() -> float:
    """How long ago this process's worker last turned its supervisor's loop, which it does every second."""
    return time.monotonic() - _last_turn


class ThreadWorker(BaseWorker):
    """Works on its first queue as jobs come, and looks at the others once a second."""

    linger_seconds = 0.0
    """How long it goes on taking jobs after it was told to end."""
    before_finishing: Callable[[], object] = staticmethod(bool)
    """Called once it takes no more, when it was told to end; and again when nothing runs any more."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.concurrency: int = settings.WORKER_CONCURRENCY
        self.shutdown_seconds: float = settings.WORKER_SHUTDOWN_TIMEOUT
        self._books = Bookkeeping(self.name)
        self._runs: dict[str, Run] = {}
        self._ended: deque[Ending] = deque()
        """Runs that Redis is still to be told of, by the one thread that has `_teller`."""
        self._teller = threading.Lock()
        self._stop_at = float("inf")
        self._taking = True
        self._hurry = threading.Event()
        self._over = threading.Event()
        self._looked_at_others = 0.0
        self._silent_since = 0.0
        self._beat_at = 0.0
        self._init_check_at = float("inf")

    # --- what RQ's base class asks

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
        """Runs until told to stop; with `burst` until the queue is empty. Whether it took any job."""
        self._slots = Slots(self.concurrency, self._perform)
        if threading.current_thread() is threading.main_thread():
            self._install_signal_handlers()
        self._sign_on()
        supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        supervisor.start()
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
            supervisor.join(timeout=5)
            self._say_goodbye()
        return taken > 0

    def _sign_on(self) -> None:
        """Registers this worker and listens to commands. Redis may go away meanwhile: the beats register it, too."""
        with suppress(redis.RedisError):
            self.register_birth()
        while not self._is_stopping:
            try:
                self.subscribe()
                return
            except redis.RedisError as error:
                self._note_silence(error)

    def _install_signal_handlers(self) -> None:
        signal.signal(signal.SIGINT, self.request_stop)
        signal.signal(signal.SIGTERM, self.request_stop)
        signal.signal(signal.SIGTSTP, self._take_none)
        signal.signal(signal.SIGCONT, self._take_again)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """The first signal: take nothing more and finish what runs. The second: hand back what runs."""
        if self._stop_at < float("inf"):
            self._stop_at = 0.0
            self._hurry.set()
        else:
            self._stop_at = time.monotonic() + self.linger_seconds

    @property
    def _is_stopping(self) -> bool:
        return time.monotonic() >= self._stop_at

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

    def _pubsub_exception_handler(self, error: Exception, pubsub: Any, thread: Any) -> None:
        """Neither a lost connection nor a garbled command is a reason not to listen any more."""
        logger.debug("worker %s: a remote command could not be read: %s", self.name, error)
        if self._over.wait(2):
            thread.stop()

    # --- taking

    def _take_jobs(self, burst: bool, max_jobs: int | None, max_idle_time: int | None) -> int:
        """Until told to stop; how many were taken."""
        taken = 0
        idle_since = time.monotonic()
        while not self._is_stopping and (max_jobs is None or taken < max_jobs):
            wanted = 1 if max_jobs is not None else self.concurrency
            free = self._slots.acquire(wanted, timeout=WAIT_SECONDS)
            runs = self._claim(free) if free and self._taking and not self._is_stopping else []
            self._slots.release(free - len(runs))
            for run in runs:
                self._runs[run.execution_id] = run
                self._slots.run(run)
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
        return taken

    def _claim(self, wanted: int) -> list[Run]:
        """Up to `wanted` jobs, first from the queues that are looked at once a second."""
        runs: list[Run] = []
        turn = [self.queues[0]]
        if time.monotonic() - self._looked_at_others >= 1:
            self._looked_at_others = time.monotonic()
            turn = [*self.queues[1:], *turn]
        try:
            for queue in turn:
                if len(runs) < wanted:
                    runs += self._claim_from(queue.name, wanted - len(runs))
        except redis.RedisError as error:
            self._note_silence(error)
        else:
            self._silent_since = 0.0
        return runs

    def _claim_from(self, queue_name: str, wanted: int) -> list[Run]:
        runs, paused = self._books.claim(queue_name, wanted)
        if paused and queue_name == self.queues[0].name:
            self._over.wait(0.2)  # the wait below would return at once while jobs are there
        return runs

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
        self._over.wait(min(2.0, 0.02 + time.monotonic() - self._silent_since))

    # --- running

    def _perform(self, run: Run) -> bool:
        """The outermost loop of a job: whatever it raises ends here, as something RQ knows.

        False where it was given up, or handed back, before it ended.
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
        except BaseException:  # SystemExit and its like too: a job ends itself alone, never a slot or the worker
            logger.exception("job %s failed", run.job_id, extra={"task_id": run.job_id})
            becomes, exception = "failed", traceback.format_exc()
        finally:
            running.reset(token)
            close_old_connections()
        if not run.claim_end():
            return False
        self._ended.append(_ending(run, becomes, exception))
        self._tell_of_ended()
        return True

    def _tell_of_ended(self) -> None:
        """Whoever comes first tells Redis of all that have ended by then; the others need not wait for it."""
        while self._ended and self._teller.acquire(blocking=False):
            try:
                self._store([self._ended.popleft() for _ in range(len(self._ended))])
            finally:
                self._teller.release()

    def _store(self, endings: list[Ending]) -> None:
        """Tells Redis, however long it is away: until then the leases are kept, so nobody runs them twice."""
        pause = 0.1
        while True:
            try:
                for ending in self._books.end(endings):
                    job_id = ending.run.job_id
                    logger.warning("job %s had been given to another run", job_id, extra={"task_id": job_id})
                break
            except Exception as error:  # even what nobody foresaw must not take the slot along
                if not is_lost(error) and len(endings) > 1:  # one of them is at fault: the others shall not suffer
                    for ending in endings:
                        self._store([ending])
                    return
                if not is_lost(error) or self._over.wait(pause):
                    ids = ", ".join(ending.run.job_id for ending in endings)
                    logger.exception("how jobs ended could not be stored: %s", ids)
                    break
                pause = min(3.0, pause * 2)
        for ending in endings:
            self._runs.pop(ending.run.execution_id, None)

    # --- supervising

    def _supervise(self) -> None:
        global _last_turn
        while not self._over.wait(TICK_SECONDS):
            _last_turn = time.monotonic()
            for duty in (self._look_after_queues, self._enforce_limits):
                try:
                    duty()
                except redis.RedisError as error:
                    logger.debug("the supervisor got no answer from Redis: %s", error)
                except Exception:  # without its supervisor a worker would lose all its jobs
                    logger.exception("the supervisor of worker %s failed, and goes on", self.name)

    def _look_after_queues(self) -> None:
        for queue in self.queues:
            tick = self._books.tick(queue.name)
            if queue is self.queues[0]:
                self._note_lost(tick.lost)
                if tick.is_new:
                    self._redis_is_new()
        if time.monotonic() >= self._beat_at:
            self._beat()
            self._beat_at = time.monotonic() + BEAT_SECONDS
        if time.monotonic() >= self._init_check_at:
            enqueue_once(INIT_CHECK, turn_seconds=60)
            self._init_check_at = float("inf")

    def _note_lost(self, runs: list[tuple[str, str]]) -> None:
        """In a thread of its own: a database that hangs must not keep the supervisor from its beats."""
        if runs:
            logger.warning("%d tasks of lost workers wait again", len(runs))
            threading.Thread(
                target=_put_back, args=(runs,), kwargs={"lost": True}, name="put-back", daemon=True
            ).start()

    def _redis_is_new(self) -> None:
        """It may have been emptied: what runs is put back by the workers' beats, then what waited by an init check."""
        self._beat_at = 0.0
        if settings.ENABLE_PERIODIC_CHECK:
            self._init_check_at = time.monotonic() + 2 * BEAT_SECONDS

    def _beat(self) -> None:
        state = "busy" if self._runs else "idle"
        for queue in self.queues:
            runs = [run for run in list(self._runs.values()) if run.queue_name == queue.name]
            if not self._books.beat(queue.name, runs, state=state, ttl=self.worker_ttl + 60):
                self.connection.delete(self.key)
                self.register_birth()

    def _enforce_limits(self) -> None:
        moment = time.monotonic()
        for run in list(self._runs.values()):
            if run.is_settling:
                continue
            if run.stop_reason is None and moment >= run.deadline + 1:
                run.stop("timeout")
            elif run.stop_reason in ("timeout", "canceled") and moment >= run.stopped_at + REACT_SECONDS:
                self._abandon(run)

    def _abandon(self, run: Run) -> None:
        """A job that does not react keeps its thread, but no longer its slot."""
        if run.claim_end():
            logger.error("job %s did not end when told to; its slot is given on", run.job_id)
            threading.Thread(target=self._give_up, args=(run,), name="give-up", daemon=True).start()

    def _give_up(self, run: Run) -> None:
        """In a thread of its own: a database that hangs must not keep the supervisor from its beats."""
        becomes, exception = "finished", ""
        try:
            close_old_connections()
            import_attribute(GIVE_UP)(run.job_id, "the prediction did not end within its time limit")
        except RetryLater:
            becomes = "scheduled"
        except Exception:  # archived instead: the sweep says so on the task
            becomes, exception = "failed", traceback.format_exc()
        finally:
            connection.close()
        self._store([_ending(run, becomes, exception)])
        self._slots.release()

    # --- shutting down

    def _finish_runs(self) -> None:
        """Waits for the running jobs; those that take too long go back to the queue's front."""
        self._wait_while(self._is_any_at_work, self.shutdown_seconds, unless=self._hurry)
        left = self._at_work()
        for run in reversed(left):
            run.stop("shutdown")
        self._wait_while(self._is_any_at_work, HAND_BACK_SECONDS)
        self._wait_while(self._is_any_settling, SETTLE_SECONDS)
        unresponsive = [run for run in reversed(self._at_work()) if run.claim_end()]
        self._ended.extend(_ending(run, "queued") for run in unresponsive)
        if left:
            logger.warning("worker %s hands back %d running jobs", self.name, len(left))
        threading.Thread(target=self._tell_of_ended, name="farewell", daemon=True).start()
        _put_back([(run.job_id, run.execution_id) for run in unresponsive], lost=False)
        self._wait_while(lambda: bool(self._runs), TELL_SECONDS)
        if self._runs:
            logger.error(
                "Redis does not answer, so it does not know how %d jobs ended. Their leases lapse; those whose result "
                "is recorded do not run again",
                len(self._runs),
            )

    def _at_work(self) -> list[Run]:
        """The runs that have not ended, whether Redis has been told of the others or not."""
        return [run for run in list(self._runs.values()) if not run.has_ended]

    def _is_any_at_work(self) -> bool:
        return bool(self._at_work())

    def _is_any_settling(self) -> bool:
        """Whether a prediction has ended and is not on record yet."""
        return any(run.is_settling for run in self._at_work())

    def _wait_while(
        self, condition: Callable[[], bool], seconds: float, *, unless: threading.Event | None = None
    ) -> None:
        deadline = time.monotonic() + seconds
        while condition() and time.monotonic() < deadline and not (unless is not None and unless.is_set()):
            time.sleep(0.02)

    def _say_goodbye(self) -> None:
        try:
            self.register_death()
            self.unsubscribe()
        except redis.RedisError as error:
            logger.warning("worker %s could not sign off: %s", self.name, error)


def _put_back(runs: list[tuple[str, str]], *, lost: bool) -> None:
    """Says on the tasks of these runs that they wait again."""
    if not runs:
        return
    try:
        import_attribute(PUT_BACK)(runs, lost)
    finally:
        connection.close()


def _ending(run: Run, becomes: str, exception: str = "") -> Ending:
    return Ending(run, becomes, exception, time.monotonic() - run.started)
