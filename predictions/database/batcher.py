"""Writes that come while others are under way go to the database together, in one round trip for all of them.

Nobody waits for company: who comes while fewer than `at_once` are under way goes at once, and alone. What hundreds
write at the same moment costs the server, and this process, a fraction of what it would cost one by one.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from django.conf import settings
from django.db import OperationalError

T = TypeVar("T")
R = TypeVar("R")


class _Waiter(Generic[T, R]):
    """One who came while others were under way. Its lock is held until it is told an answer, or to go next."""

    def __init__(self, item: T) -> None:
        self.item = item
        self.told = threading.Lock()
        self.told.acquire()
        self.goes_next = False
        self.answer: R | None = None
        self.error: Exception | None = None


class WriteBatcher(Generic[T, R]):
    """Called with an item, answers what `one` answers for it; what came meanwhile is given to `several`.

    `several` answers None for an item that is to go alone after all, and what it raises is raised to each. `at_once` of
    its calls are under way at most, with `most` items each.
    """

    def __init__(
        self,
        one: Callable[[T], R],
        several: Callable[[Sequence[T]], Sequence[R | None]],
        *,
        at_once: int,
        most: int,
    ) -> None:
        self._one = one
        self._several = several
        self._at_once = at_once
        self._most = most
        self._lock = threading.Lock()
        self._under_way = 0
        self._waiters: deque[_Waiter[T, R]] = deque()

    def __call__(self, item: T) -> R:
        """Raises OperationalError, besides, where it was not its turn within half of DATABASE_TIMEOUT."""
        waiter = self._queue(item)
        if waiter is not None:
            self._wait(waiter)
            if not waiter.goes_next:
                return self._said(waiter)
        return self._go(item)

    def _queue(self, item: T) -> _Waiter[T, R] | None:
        """None where it can go at once."""
        with self._lock:
            if self._under_way < self._at_once:
                self._under_way += 1
                return None
            waiter: _Waiter[T, R] = _Waiter(item)
            self._waiters.append(waiter)
            return waiter

    def _wait(self, waiter: _Waiter[T, R]) -> None:
        if waiter.told.acquire(timeout=settings.DATABASE_TIMEOUT / 2):
            return
        with self._lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                raise OperationalError("the database is busy with other writes")
        waiter.told.acquire()  # it is under way, or goes next

    def _go(self, item: T) -> R:
        with self._lock:
            others = [self._waiters.popleft() for _ in range(min(len(self._waiters), self._most - 1))]
        try:
            if not others:
                return self._one(item)
            answer = self._carry_out(item, others)
        finally:
            for other in others:
                other.told.release()
            self._let_the_next_go()
        return self._one(item) if answer is None else answer

    def _carry_out(self, item: T, others: Sequence[_Waiter[T, R]]) -> R | None:
        try:
            answer, *answers = self._several([item, *(other.item for other in others)])
        except BaseException as error:
            for other in others:
                other.error = error if isinstance(error, Exception) else OperationalError("the write was broken off")
            raise
        for other, told in zip(others, answers, strict=True):
            other.answer = told
        return answer

    def _let_the_next_go(self) -> None:
        with self._lock:
            if not self._waiters:
                self._under_way -= 1
                return
            waiter = self._waiters.popleft()
            waiter.goes_next = True
        waiter.told.release()

    def _said(self, waiter: _Waiter[T, R]) -> R:
        error = waiter.error
        if error is not None:
            raise type(error)(*error.args) from error.__cause__  # with a traceback of its own for each
        return self._one(waiter.item) if waiter.answer is None else waiter.answer
