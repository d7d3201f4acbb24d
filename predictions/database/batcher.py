"""Batches the writes of concurrent callers: one round trip and one transaction for all of them.

    a caller writes ─► are fewer than `at_once` batches under way? ─yes─► it leads: writes its item and the waiting ones
                                        │ no                                       │
                                        └──► its item waits ◄── the result, or the lead of the next batch

Batching adds no latency: a write that finds a free slot goes at once. The more items arrive while batches are under
way, the larger the next batch is, and the less each write costs the server and this process.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from django.conf import settings
from django.db import OperationalError

T = TypeVar("T")
R = TypeVar("R")

_LEAD = object()
"""Instead of a result: a slot is free, and the caller leads the next batch."""


class _Waiting(Future[Any], Generic[T]):
    def __init__(self, item: T) -> None:
        super().__init__()
        self.item = item


class WriteBatcher(Generic[T, R]):
    """Writes of one kind; at most `at_once` batches are under way, with at most `size` items each."""

    def __init__(
        self,
        write_one: Callable[[T], R],
        write_batch: Callable[[Sequence[T]], Sequence[R | None]],
        *,
        at_once: int,
        size: int,
    ) -> None:
        """`write_batch` returns a result for each item, None for one that its caller must write alone."""
        self._write_one = write_one
        self._write_batch = write_batch
        self._at_once = at_once
        self._size = size
        self._lock = threading.Lock()
        self._under_way = 0
        self._queue: deque[_Waiting[T]] = deque()

    def __call__(self, item: T) -> R:
        """Raises what the write raises, and OperationalError if no slot was free within half of DATABASE_TIMEOUT."""
        waiting = None
        with self._lock:
            if self._under_way < self._at_once:
                self._under_way += 1
            else:
                waiting = _Waiting(item)
                self._queue.append(waiting)
        result: Any = _LEAD if waiting is None else self._wait(waiting)
        if result is _LEAD:
            return self._lead(item)
        return self._write_one(item) if result is None else result

    def _wait(self, waiting: _Waiting[T]) -> Any:
        try:
            return waiting.result(timeout=settings.DATABASE_TIMEOUT / 2)
        except TimeoutError:
            with self._lock:
                if waiting in self._queue:
                    self._queue.remove(waiting)
                    raise OperationalError("the database is busy with other writes") from None
            return waiting.result()  # its batch is under way, or it leads the next one

    def _lead(self, item: T) -> R:
        with self._lock:
            followers = [self._queue.popleft() for _ in range(min(len(self._queue), self._size - 1))]
        try:
            if not followers:
                return self._write_one(item)
            result, *results = self._write_batch([item, *(follower.item for follower in followers)])
            for follower, its_result in zip(followers, results, strict=True):
                follower.set_result(its_result)
        except BaseException as error:
            for follower in followers:
                follower.set_exception(_error_for_another(error))
            raise
        finally:
            self._pass_on()
        return self._write_one(item) if result is None else result

    def _pass_on(self) -> None:
        """Gives the slot to the first in the queue, or frees it."""
        with self._lock:
            if not self._queue:
                self._under_way -= 1
                return
            successor = self._queue.popleft()
        successor.set_result(_LEAD)


def _error_for_another(error: BaseException) -> Exception:
    """Each caller raises an exception of its own, because a traceback grows with each raise."""
    if not isinstance(error, Exception):
        return OperationalError("the write was broken off")
    copy = type(error)(*error.args)
    copy.__cause__ = error.__cause__
    return copy
