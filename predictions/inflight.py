"""Which predictions run in this process, and the watch that ends those whose time is up or that were canceled.

A cancellation is written to Redis, where every process with predictions in flight looks twice a second: it reaches
web and worker processes on any host, and a failover loses none.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from platforms import Call, StopReason
from predictions.queue import queue

logger = logging.getLogger(__name__)

LOOK_EVERY_SECONDS = 0.5

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
    seen = 0.0
    idle_looks = 0
    while True:
        with _lock:
            idle_looks = 0 if _calls else idle_looks + 1
            if idle_looks > 10:
                _watch = None
                return
            calls = list(_calls.values())
            wanted = list(_wanted.items())
        if calls:
            seen = _stop_canceled(seen)
            for task_id, is_wanted in wanted:
                if not is_wanted():
                    stop(task_id, StopReason.CANCELED)
            for call in calls:
                if call.reason is None and time.monotonic() >= call.deadline:
                    call.stop(StopReason.TIMEOUT)
        time.sleep(LOOK_EVERY_SECONDS)


def _stop_canceled(seen: float) -> float:
    try:
        task_ids, seen = queue.stops_since(seen)
    except queue.QueueUnavailable:
        logger.warning("cannot look for cancellations: Redis does not answer")
        return seen
    for task_id in task_ids:
        stop(task_id, StopReason.CANCELED)
    return seen
