"""Which predictions run in this process, and the watch that ends those whose time is up or that were canceled.

A cancellation is written to Redis, where every process with predictions in flight looks twice a second: it reaches
web and worker processes on any host, and a failover loses none. With each look the process says which tasks it holds,
so that a cancel that came before its call is found as well, and the init check leaves them alone whatever clocks say.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from platforms import Call, StopReason
from predictions.queue import queue

logger = logging.getLogger(__name__)

LOOK_EVERY_SECONDS = 0.5
SAY_EVERY_SECONDS = 5.0
"""How often all tasks held are said again; Redis keeps them for queue.HOLD_SECONDS."""

_lock = threading.Lock()
_calls: dict[str, Call] = {}
_wanted: dict[str, Callable[[], bool]] = {}
_watch: threading.Thread | None = None


@contextmanager
def in_flight(task_id: str, call: Call, *, is_wanted: Callable[[], bool] | None = None) -> Iterator[None]:
    """Inside the block the call can be stopped by its task's id, from any process, and ends at its deadline.

    `is_wanted` is asked at every look; a call that nobody wants any more is stopped as canceled.
    """
    global _watch
    with _lock:
        _calls[task_id] = call
        if is_wanted is not None:
            _wanted[task_id] = is_wanted
        if _watch is None:
            _watch = threading.Thread(target=_keep_watch, name="inflight-watch", daemon=True)
            _watch.start()
    try:
        yield
    finally:
        with _lock:
            if _calls.get(task_id) is call:
                del _calls[task_id]
                _wanted.pop(task_id, None)


def stop(task_id: str, reason: StopReason) -> bool:
    """Ends the task's call if it runs in this process."""
    with _lock:
        call = _calls.get(task_id)
    if call is None:
        return False
    call.stop(reason)
    return True


def _keep_watch() -> None:
    """Runs while anything is in flight, and a moment longer, so that a busy process keeps one watch."""
    global _watch
    looks = _Looks()
    idle_looks = 0
    while True:
        with _lock:
            if _watch is not threading.current_thread():
                return
            idle_looks = 0 if _calls else idle_looks + 1
            if idle_looks > 10:
                _watch = None
                return
            calls, wanted = dict(_calls), dict(_wanted)
        try:
            _end_what_is_over(calls, wanted)
            _stop_canceled(looks, calls)
        except Exception:  # whatever one call's closing raised: the others must still end in time
            logger.exception("the watch over predictions in flight failed, and goes on")
        time.sleep(LOOK_EVERY_SECONDS)


def _end_what_is_over(calls: dict[str, Call], wanted: dict[str, Callable[[], bool]]) -> None:
    for call in calls.values():
        if call.reason is None and time.monotonic() >= call.deadline:
            call.stop(StopReason.TIMEOUT)
    for task_id, is_wanted in wanted.items():
        if not is_wanted():
            stop(task_id, StopReason.CANCELED)


def _stop_canceled(looks: "_Looks", calls: dict[str, Call]) -> None:
    if not calls:
        return
    try:
        for task_id in looks.asked_to_end(calls.keys()):
            stop(task_id, StopReason.CANCELED)
    except queue.QueueUnavailable:
        logger.warning("cannot look for cancellations: Redis does not answer")


class _Looks:
    """What this process has said to Redis, and when it last asked."""

    def __init__(self) -> None:
        self.said: set[str] = set()
        self._seen = 0.0
        self._said_all_at = float("-inf")

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
