"""Django's SQLite backend, with cursors that retry while the file is locked.

SQLite's own wait for a lock blocks the thread, and under gevent that is every request of the process. A cursor here
sleeps instead and executes its statement again.
"""

import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from django.db import OperationalError
from django.db.backends.sqlite3 import base

T = TypeVar("T")

LONGEST_PAUSE_SECONDS = 0.01


class DatabaseWrapper(base.DatabaseWrapper):
    """The option `timeout` is how long a cursor retries, in seconds."""

    @property
    def retry_seconds(self) -> float:
        return float(self.settings_dict["OPTIONS"].get("timeout", 5))

    def get_connection_params(self) -> dict[str, Any]:
        return {**super().get_connection_params(), "timeout": 0}

    def get_new_connection(self, conn_params: dict[str, Any]) -> sqlite3.Connection:
        connect: Callable[[], sqlite3.Connection] = partial(super().get_new_connection, conn_params)
        return _retried(connect, self.retry_seconds)

    @contextmanager
    def shared_cursor(self, *, only_reads: bool) -> Iterator[Any]:
        """A cursor on a connection that the threads of this process use in turn, for a statement each.

        A new connection takes a millisecond, and a thousand waiting predictions with a connection each take 160 MB.
        Raises django.db.Error.
        """
        shared = _reader if only_reads else _writer
        if not shared.lock.acquire(timeout=self.retry_seconds):
            raise OperationalError("database is locked")
        try:
            file = _identity(self.settings_dict["NAME"])
            if shared.database is None or shared.database.errors_occurred or file is None or file != shared.file:
                if shared.database is not None:
                    shared.database.close()
                shared.database, shared.file = self.copy(), file
                shared.database.inc_thread_sharing()
            with shared.database.cursor() as cursor:
                yield cursor
        finally:
            shared.lock.release()

    def create_cursor(self, name: Any = None) -> "RetryingCursor":
        factory = partial(RetryingCursor, retry_seconds=self.retry_seconds)
        cursor: RetryingCursor = self.connection.cursor(factory=factory)
        return cursor


class RetryingCursor(base.SQLiteCursorWrapper):
    """Retries while another connection holds the lock: a statement that found the file locked has changed nothing."""

    def __init__(self, connection: sqlite3.Connection, *, retry_seconds: float) -> None:
        super().__init__(connection)
        self._retry_seconds = retry_seconds

    def execute(self, query: str, params: Any = None) -> Any:
        return _retried(partial(super().execute, query, params), self._retry_seconds)

    def executemany(self, query: str, param_list: Any) -> Any:
        return _retried(partial(super().executemany, query, list(param_list)), self._retry_seconds)


def _retried(step: Callable[[], T], seconds: float) -> T:
    """Raises sqlite3.OperationalError if the file is still locked after so many seconds."""
    give_up_at = time.monotonic() + seconds
    pause = 0.0005
    while True:
        try:
            return step()
        except sqlite3.OperationalError as error:
            if not _is_locked(error) or time.monotonic() > give_up_at:
                raise
        time.sleep(pause * random.uniform(0.5, 1))
        pause = min(LONGEST_PAUSE_SECONDS, pause * 2)


def _is_locked(error: sqlite3.OperationalError) -> bool:
    """Retrying does not help a transaction whose earlier reads are outdated (SQLITE_BUSY_SNAPSHOT)."""
    code = error.sqlite_errorcode
    return code & 0xFF == sqlite3.SQLITE_BUSY and code != sqlite3.SQLITE_BUSY_SNAPSHOT


class _Shared:
    """`file` is the one that the connection has open; another one may have its name by now."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.database: DatabaseWrapper | None = None
        self.file: tuple[int, int] | None = None


_writer = _Shared()
_reader = _Shared()
"""A separate one, because the writer may wait for another process."""


def _identity(name: Any) -> tuple[int, int] | None:
    with suppress(OSError):
        file = os.stat(name)
        return file.st_dev, file.st_ino
    return None
