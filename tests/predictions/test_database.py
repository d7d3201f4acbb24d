"""How statements wait for other writers of a SQLite file, and how threads share a connection to it."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connections, transaction

from predictions import statements


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
    connections["own"].close()
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


def test_what_waiting_cannot_help_is_said_at_once(connection: Any, other: sqlite3.Connection) -> None:
    with connection.cursor() as cursor, pytest.raises(OperationalError, match="no such table"):
        cursor.execute("INSERT INTO letters VALUES (1)")


def write(connection: Any, number: int) -> sqlite3.Connection:
    """On the shared connection, which it returns."""
    with connection.shared_cursor(only_reads=False) as cursor:
        cursor.execute("INSERT INTO numbers VALUES (%s)", [number])
        connected: sqlite3.Connection = cursor.connection
        return connected


def test_threads_share_a_connection_and_each_of_their_writes_is_committed(connection: Any) -> None:
    connections.settings["own"]["OPTIONS"]["timeout"] = 30
    first = write(connection, 0)
    with ThreadPoolExecutor(16) as callers:
        used = set(callers.map(lambda number: write(connections["own"], number), range(1, 400)))
    assert used == {first}
    assert numbers(connection) == list(range(400))


def test_a_thread_holds_no_connection_once_its_statement_is_done() -> None:
    """A thousand waiting predictions would hold a thousand."""
    default = connections["default"]
    default.close()
    statements.read("nobody")
    assert default.connection is None


def test_a_writer_on_the_shared_connection_waits_and_readers_do_not(connection: Any, other: sqlite3.Connection) -> None:
    with ThreadPoolExecutor(1) as callers:
        written = callers.submit(lambda: write(connections["own"], 1))
        with connection.shared_cursor(only_reads=True) as cursor:
            assert cursor.execute("SELECT n FROM numbers").fetchall() == []
        assert not written.done()
        other.execute("COMMIT")
        written.result()
    assert numbers(connection) == [1]


def test_every_writer_that_waits_for_too_long_is_told_that_the_database_is_locked(
    connection: Any, other: sqlite3.Connection
) -> None:
    with ThreadPoolExecutor(3) as callers:
        writes = [callers.submit(lambda: write(connections["own"], 1)) for _ in range(3)]
        assert [str(each.exception()) for each in writes] == ["database is locked"] * 3
    other.execute("COMMIT")
    write(connection, 2)
    assert numbers(connection) == [2]


def test_the_shared_connection_opens_a_file_that_replaced_its_own(connection: Any, path: Path) -> None:
    write(connection, 1)
    connection.close()
    path.rename(path.with_name("old.sqlite3"))
    with pytest.raises(OperationalError, match="no such table"):
        write(connection, 2)


def test_the_shared_connection_goes_on_after_an_error(connection: Any) -> None:
    with (
        pytest.raises(OperationalError, match="no such table"),
        connection.shared_cursor(only_reads=False) as cursor,
    ):
        cursor.execute("INSERT INTO letters VALUES (1)")
    write(connection, 3)
    assert numbers(connection) == [3]
