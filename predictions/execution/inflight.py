"""The predictions that run in this process, and the two watches that end them.

One watch looks at this process alone: it ends calls whose time is over and calls whose caller has hung up. The other
asks Redis twice a second which tasks were canceled, and says which tasks this process holds. A cancellation stands in
Redis, so it reaches web and worker processes on any host and survives a failover. The init check leaves held tasks
alone, whatever the clocks say. The two are apart because a Redis that hangs must not delay the first.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from platforms import Call, StopReason
from predictions.queue import queue
from predictions.redis.errors import QueueUnavailable

logger = logging.getLogger(__name__)

LOOK_EVERY_SECONDS = 0.5
SAY_EVERY_SECONDS = 5.0
"""How often this process renews its holds in Redis, which keeps them for queue.HOLD_SECONDS."""

_lock = threading.Lock()
_calls: dict[str, Call] = {}
_callers: dict[str, Callable[[], bool]] = {}
"""Task → whether its caller is gone, for callers whose predictions end with them."""


@contextmanager
def in_flight(task_id: str, call: Call, *, caller_is_gone: Callable[[], bool] | None = None) -> Iterator[None]:
    """Inside the block the call can be stopped by its task's id, from any process, and ends at its deadline.

    The watch calls `caller_is_gone` at every look, and stops the call as canceled once it returns True.
    """
    with _lock:
        _calls[task_id] = call
        if caller_is_gone is not None:
            _callers[task_id] = caller_is_gone
        for watch in watches:
            watch.ensure_it_runs()
    try:
        yield
    finally:
        with _lock:
            if _calls.get(task_id) is call:
                del _calls[task_id]
                _callers.pop(task_id, None)


def stop(task_id: str, reason: StopReason) -> bool:
    """Ends the task's call if it runs in this process."""
    with _lock:
        call = _calls.get(task_id)
    if call is None:
        return False
    call.stop(reason)
    return True


class Watch:
    """A thread that looks twice a second while anything is in flight, and for five seconds more."""

    def __init__(self, name: str, new_look: Callable[[], Callable[[], None]]) -> None:
        """`new_look` makes the function that the thread calls at each look."""
        self._name = name
        self._new_look = new_look
        self._thread: threading.Thread | None = None

    def ensure_it_runs(self) -> None:
        """To be called with the lock."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Ends the thread; the next call in flight starts another."""
        with _lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        look = self._new_look()
        idle_looks = 0
        while True:
            with _lock:
                if self._thread is not threading.current_thread():
                    return
                idle_looks = 0 if _calls else idle_looks + 1
                if idle_looks > 10:
                    self._thread = None
                    return
            try:
                look()
            except Exception:  # whatever one call's closing raised: the others must still end in time
                logger.exception("the watch over predictions in flight failed, and goes on")
            time.sleep(LOOK_EVERY_SECONDS)


def _end_what_is_over() -> None:
    """Ends the calls whose time is over, and those whose caller has hung up."""
    with _lock:
        calls, callers = dict(_calls), dict(_callers)
    for call in calls.values():
        if call.reason is None and time.monotonic() >= call.deadline:
            call.stop(StopReason.TIMEOUT)
    for task_id, caller_is_gone in callers.items():
        if caller_is_gone():
            stop(task_id, StopReason.CANCELED)


class _Cancellations:
    """What this process has told Redis, and when it last asked."""

    def __init__(self) -> None:
        self.said: set[str] = set()
        self._seen = 0.0
        self._said_all_at = float("-inf")

    def stop_canceled(self) -> None:
        """Ends the calls whose tasks were canceled, by any process."""
        with _lock:
            held = set(_calls)
        if not held:
            return
        try:
            for task_id in self.asked_to_end(held):
                stop(task_id, StopReason.CANCELED)
        except QueueUnavailable:
            logger.warning("cannot look for cancellations: Redis does not answer")

    def asked_to_end(self, held: Iterable[str]) -> list[str]:
        """The tasks to end, of any process. Raises QueueUnavailable."""
        holds, moment = set(held), time.monotonic()
        again = moment - self._said_all_at >= SAY_EVERY_SECONDS
        asked, self._seen = queue.look(
            self._seen, holds=holds if again else holds - self.said, released=self.said - holds
        )
        self.said = holds
        if again:
            self._said_all_at = moment
        return asked


watches = [
    Watch("inflight-watch", lambda: _end_what_is_over),
    Watch("cancellation-watch", lambda: _Cancellations().stop_canceled),
]
