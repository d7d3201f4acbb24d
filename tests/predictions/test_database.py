"""Statements wait for other writers of a SQLite file, and threads share its connections."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connections, transaction

from predictions.database.sqlite3.base import KEPT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "own.sqlite3"


@pytest.fixture
def connection(path: Path) -> Iterator[Any]:
    """A connection of the agent's own SQLite engine, that waits for half a second."""
    options = {"timeout": 0.5, "transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL"}
    engine = {"ENGINE": "predictions.database.sqlite3", "NAME": path, "OPTIONS": options}
    connections.settings["own"] = {**connections.settings["default"], **engine}
    with connections["own"].cursor() as cursor:
        cursor.execute("CREATE TABLE numbers (n INTEGER)")
    yield connections["own"]
    connections["own"].close()
    del connections["own"]
    del connections.settings["own"]


@pytest.fixture
def other(connection: Any, path: Path) -> Iterator[sqlite3.Connection]:
    """Another process's connection, which holds the write lock."""
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    yield other
    other.close()


def numbers(connection: Any) -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT n FROM numbers ORDER BY n")
        return [n for (n,) in cursor.fetchall()]


def test_a_writer_waits_until_the_other_one_has_ended(connection: Any, other: sqlite3.Connection) -> None:
    threading.Timer(0.2, other.execute, ["COMMIT"]).start()
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO numbers VALUES (%s)", [1])
    assert numbers(connection) == [1]


def test_many_rows_are_written_once_though_they_come_from_a_generator(
    connection: Any, other: sqlite3.Connection
) -> None:
    threading.Timer(0.2, other.execute, ["COMMIT"]).start()
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO numbers VALUES (%s)", ([n] for n in range(5)))
    assert numbers(connection) == [0, 1, 2, 3, 4]


def test_a_transaction_waits_at_its_beginning(connection: Any, other: sqlite3.Connection) -> None:
    threading.Timer(0.2, other.execute, ["COMMIT"]).start()
    with transaction.atomic(using="own"), connection.cursor() as cursor:
        cursor.execute("INSERT INTO numbers VALUES (1)")
        cursor.execute("INSERT INTO numbers VALUES (2)")
    assert numbers(connection) == [1, 2]


def test_a_writer_gives_up_after_its_time_and_readers_never_wait(connection: Any, other: sqlite3.Connection) -> None:
    other.execute("INSERT INTO numbers VALUES (7)")
    began_at = time.monotonic()
    with connection.cursor() as cursor, pytest.raises(OperationalError, match="locked"):
        cursor.execute("INSERT INTO numbers VALUES (1)")
    assert time.monotonic() - began_at >= 0.5
    assert numbers(connection) == []


def test_errors_that_waiting_cannot_fix_are_raised_at_once(connection: Any, other: sqlite3.Connection) -> None:
    with connection.cursor() as cursor, pytest.raises(OperationalError, match="no such table"):
        cursor.execute("INSERT INTO letters VALUES (1)")


def test_a_returned_connection_is_reused(connection: Any) -> None:
    numbers(connection)
    first = connection.connection
    connection.close()
    numbers(connection)
    assert connection.connection is first


def test_open_cursors_never_share_a_connection(connection: Any) -> None:
    numbers(connection)
    with connection.lent_cursor() as one, connection.lent_cursor() as other:
        assert len({id(connection.connection), id(one.connection), id(other.connection)}) == 3


def test_only_so_many_connections_are_kept(connection: Any) -> None:
    params = connection.get_connection_params()
    made = [connection.get_new_connection(params) for _ in range(KEPT + 3)]
    for one in made:
        connection.give_back(one, is_sound=True)
    assert len([one for one in made if is_open(one)]) == KEPT


def test_threads_wait_for_a_free_connection(connection: Any) -> None:
    got = threading.Event()

    def borrow() -> None:
        with connection.lent_cursor() as cursor:
            cursor.execute("SELECT 1")
            got.set()

    with ExitStack() as stack:
        for _ in range(KEPT - 1):
            stack.enter_context(connection.lent_cursor())
        with connection.lent_cursor():
            threading.Thread(target=borrow, daemon=True).start()
            assert not got.wait(0.2)
        assert got.wait(20)


def test_a_long_wait_ends_with_database_is_locked(connection: Any) -> None:
    connection.get_connection_params()
    connection._wait_seconds = 0.05
    with ExitStack() as stack:
        for _ in range(KEPT):
            stack.enter_context(connection.lent_cursor())
        with pytest.raises(OperationalError, match="locked"):
            stack.enter_context(connection.lent_cursor())
    with connection.lent_cursor() as cursor:  # the pool still has its connection
        cursor.execute("SELECT 1")


def test_reads_wait_for_no_writer(connection: Any) -> None:
    with ExitStack() as stack:
        for _ in range(KEPT):
            stack.enter_context(connection.lent_cursor())
        with connection.lent_cursor(to_read=True) as cursor:
            assert cursor.execute("SELECT 1").fetchall() == [(1,)]


def test_a_failed_cursor_leaks_no_connection(connection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise sqlite3.OperationalError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(connection, "_cursor_on", fail)
        for _ in range(KEPT + 1):
            with pytest.raises(OperationalError, match="out of memory"):
                connection.lent_cursor().__enter__()
    connection._wait_seconds = 0.05
    with connection.lent_cursor() as cursor:
        cursor.execute("SELECT 1")


def is_open(lent: sqlite3.Connection) -> bool:
    try:
        lent.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return False
    return True


def test_a_connection_to_a_file_that_was_replaced_is_not_lent(connection: Any, path: Path) -> None:
    numbers(connection)
    connection.close()
    path.rename(path.with_name("old.sqlite3"))
    with connection.cursor() as cursor, pytest.raises(OperationalError, match="no such table"):
        cursor.execute("SELECT n FROM numbers")


def test_a_connection_that_is_in_the_middle_of_something_is_not_lent(connection: Any) -> None:
    with connection.lent_cursor() as cursor:
        cursor.execute("BEGIN IMMEDIATE")
        cursor.execute("INSERT INTO numbers VALUES (%s)", [1])
        left = cursor.connection
    assert not is_open(left)
    assert numbers(connection) == []


def test_a_connection_on_which_something_went_wrong_is_not_lent(connection: Any) -> None:
    lent = connection.lent_cursor()
    cursor = lent.__enter__()
    with pytest.raises(sqlite3.OperationalError, match="no such table") as error:
        cursor.execute("INSERT INTO letters VALUES (1)")
    with pytest.raises(OperationalError, match="no such table"):
        lent.__exit__(error.type, error.value, None)
    assert not is_open(cursor.connection)


def test_work_on_a_pooled_connection_is_committed(connection: Any) -> None:
    with connection.lent_cursor() as cursor:
        cursor.execute("INSERT INTO numbers VALUES (%s)", [3])
        assert cursor.rowcount == 1
    assert numbers(connection) == [3]


def test_a_writer_on_a_lent_connection_waits_for_another_too(connection: Any, other: sqlite3.Connection) -> None:
    threading.Timer(0.2, other.execute, ["COMMIT"]).start()
    with connection.lent_cursor() as cursor:
        cursor.execute("INSERT INTO numbers VALUES (%s)", [1])
    assert numbers(connection) == [1]
