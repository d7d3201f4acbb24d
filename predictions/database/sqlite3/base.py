"""Django's SQLite backend, whose writers wait for their turn here and not inside SQLite.

SQLite's own wait blocks its thread, and under gevent that is every request of the process: a probe would not be
answered while another process writes for long. Here a writer that finds the file locked sleeps and asks again.
"""

import random
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from django.db.backends.sqlite3 import base

T = TypeVar("T")

LONGEST_PAUSE_SECONDS = 0.01
_turn = threading.Lock()
"""One writer of this process at a time asks for the lock, so sixty-four of them are no crowd."""


class DatabaseWrapper(base.DatabaseWrapper):
    """Waits up to the option `timeout`, in seconds, for other writers."""

    def get_connection_params(self) -> dict[str, Any]:
        params: dict[str, Any] = super().get_connection_params()
        self._wait_seconds = float(params.get("timeout", 5))
        return {**params, "timeout": 0}

    def get_new_connection(self, conn_params: dict[str, Any]) -> sqlite3.Connection:
        connect: Callable[[], sqlite3.Connection] = partial(super().get_new_connection, conn_params)
        return _patiently(connect, self._wait_seconds)

    def create_cursor(self, name: Any = None) -> "PatientCursor":
        cursor: PatientCursor = self.connection.cursor(factory=partial(PatientCursor, wait_seconds=self._wait_seconds))
        return cursor


class PatientCursor(base.SQLiteCursorWrapper):
    """A statement that found the file locked has changed nothing, so it can be given again."""

    def __init__(self, connection: sqlite3.Connection, *, wait_seconds: float) -> None:
        super().__init__(connection)
        self._wait_seconds = wait_seconds

    def execute(self, query: str, params: Any = None) -> Any:
        return _patiently(partial(super().execute, query, params), self._wait_seconds)

    def executemany(self, query: str, param_list: Any) -> Any:
        return _patiently(partial(super().executemany, query, list(param_list)), self._wait_seconds)


def _patiently(step: Callable[[], T], seconds: float) -> T:
    """What `step` gives, tried again while another connection holds the lock. Raises sqlite3.OperationalError."""
    try:
        return step()
    except sqlite3.OperationalError as error:
        if not _is_locked(error):
            raise
        locked = error
    deadline = time.monotonic() + seconds
    if not _turn.acquire(timeout=seconds):
        raise locked
    try:
        return _ask_again(step, deadline)
    finally:
        _turn.release()


def _ask_again(step: Callable[[], T], deadline: float) -> T:
    pause = 0.0005
    while True:
        time.sleep(pause * random.uniform(0.5, 1))
        try:
            return step()
        except sqlite3.OperationalError as error:
            if not _is_locked(error) or time.monotonic() > deadline:
                raise
        pause = min(LONGEST_PAUSE_SECONDS, pause * 2)


def _is_locked(error: sqlite3.OperationalError) -> bool:
    """Busy, but not because what was read has changed since: that a repeated statement would find again."""
    return (
        error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY and error.sqlite_errorcode != sqlite3.SQLITE_BUSY_SNAPSHOT
    )
