"""Django's SQLite backend with pooled connections. Its writers wait for their turn here, not inside SQLite.

SQLite's own wait blocks its thread, and under gevent that is every request of the process: a probe would not be
answered while another process writes for long. Here a writer that finds the file locked sleeps and asks again.

A connection takes a millisecond to open and 200 KB of memory. So closed connections are kept for the next use, and a
thousand waiting predictions hold none.
"""

import os
import random
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any, TypeVar

from django.db.backends.sqlite3 import base

T = TypeVar("T")

KEPT = 8
"""How many idle connections to a file are kept, and how many writers have one at the same time."""

LONGEST_PAUSE_SECONDS = 0.01
_places = threading.BoundedSemaphore(KEPT)
"""Hundreds who come together would each make a connection, and then wait for one another."""
_turn = threading.Lock()
"""One writer of this process at a time asks for the lock, so sixty-four of them are no crowd."""


class KeptConnection(sqlite3.Connection):
    """`file` is the device and number of the file that it has open, which may not be the one of that name any more."""

    file: tuple[int, int] | None = None


_kept: dict[tuple[str, ...], deque[KeptConnection]] = {}
"""File and commands at the beginning → connections."""


class DatabaseWrapper(base.DatabaseWrapper):
    """Waits up to the option `timeout`, in seconds, for other writers."""

    lends = True
    """Closing returns the connection to the pool."""
    init_commands: list[str]
    _params: dict[str, Any] | None = None

    def get_connection_params(self) -> dict[str, Any]:
        if self._params is None or self._params["database"] != self.settings_dict["NAME"]:
            params: dict[str, Any] = super().get_connection_params()
            self._wait_seconds = float(params.get("timeout", 5))
            self._params = {**params, "timeout": 0, "factory": KeptConnection}
            self._waiting = _kept.setdefault((str(params["database"]), *self.init_commands), deque())
        return self._params

    def get_new_connection(self, conn_params: dict[str, Any]) -> KeptConnection:
        """One that was kept, or a new one."""
        file = _identity(conn_params["database"])
        while file and self._waiting:
            try:
                kept = self._waiting.pop()
            except IndexError:  # another thread was first
                break
            if kept.file == file:
                return kept
            kept.close()
        connect: Callable[[], KeptConnection] = partial(super().get_new_connection, conn_params)
        made = _patiently(connect, self._wait_seconds)
        made.file = _identity(conn_params["database"])
        return made

    def give_back(self, connection: KeptConnection, *, is_sound: bool) -> None:
        """Keeps the connection for the next use, or closes it if it is broken or enough are idle."""
        if is_sound and connection.file and not connection.in_transaction and len(self._waiting) < KEPT:
            self._waiting.append(connection)
        else:
            connection.close()

    def _close(self) -> None:
        if self.connection is not None:
            with self.wrap_database_errors:
                self.give_back(self.connection, is_sound=not (self.in_atomic_block or self.errors_occurred))

    def create_cursor(self, name: Any = None) -> "PatientCursor":
        return self._cursor_on(self.connection, self._wait_seconds)

    def lent_cursor(self, *, to_read: bool = False) -> "LentCursor":
        """A cursor on a connection of its own, as a context. Reads (`to_read`) skip the writer lock."""
        return LentCursor(self, nullcontext() if to_read else _Place(self))

    def _cursor_on(self, connection: KeptConnection, wait_seconds: float) -> "PatientCursor":
        cursor: PatientCursor = connection.cursor(factory=partial(PatientCursor, wait_seconds=wait_seconds))
        return cursor


class _Place:
    """Among the writers of this process, as a context. Raises sqlite3.OperationalError where there was none in time."""

    def __init__(self, database: DatabaseWrapper) -> None:
        self._database = database

    def __enter__(self) -> None:
        if not _places.acquire(timeout=self._database._wait_seconds):
            raise sqlite3.OperationalError("database is locked: all connections of this process wait for it")

    def __exit__(self, *error: object) -> None:
        _places.release()


class LentCursor:
    """Raises django.db.Error. Each statement is committed."""

    def __init__(self, database: DatabaseWrapper, place: AbstractContextManager[None]) -> None:
        self._database = database
        self._place = place

    def __enter__(self) -> "PatientCursor":
        database = self._database
        with database.wrap_database_errors, ExitStack() as on_error:
            params = database.get_connection_params()
            deadline = time.monotonic() + database._wait_seconds
            on_error.enter_context(self._place)
            self._connection = database.get_new_connection(params)
            on_error.callback(self._connection.close)
            self._connection.isolation_level = None
            cursor = database._cursor_on(self._connection, max(0.0, deadline - time.monotonic()))
            on_error.pop_all()
            return cursor

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        try:
            self._database.give_back(self._connection, is_sound=error is None)
        finally:
            self._place.__exit__(None, None, None)
        if isinstance(error, sqlite3.Error):
            self._database.wrap_database_errors.__exit__(kind, error, trace)  # raises Django's


def _identity(name: Any) -> tuple[int, int] | None:
    """None where there is no file: the database is in memory."""
    try:
        found = os.stat(name)
    except OSError:
        return None
    return found.st_dev, found.st_ino


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
    """Whether SQLite is busy, other than through a stale snapshot, which a repeat would find again."""
    return (
        error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY and error.sqlite_errorcode != sqlite3.SQLITE_BUSY_SNAPSHOT
    )
