"""PostgreSQL connections of web and workers. They limit the wait for an answer, know the clock of the server, and are
checked without a round trip before the pool lends them again.

A server that hangs takes no part in its own `statement_timeout`, and its kernel goes on acknowledging packets. So the
time is kept here. Commands such as `migrate` wait for as long as it takes.
"""

import time
from typing import Any, TypeVar

import psycopg
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections
from django.utils.module_loading import import_string
from psycopg import generators
from psycopg.abc import PQGen
from psycopg.pq import ExecStatus, TransactionStatus

T = TypeVar("T")

LOOK_EVERY_SECONDS = 0.1
TRUSTED_SECONDS = 1.0
"""For so long after an answer a connection on which nothing has come since is taken to live."""
CLOCK_SECONDS = 60.0
"""How long the server's clock is taken to go on as it was read."""


class BoundedConnection(psycopg.Connection[Any]):
    """Given up when the server has not answered within DATABASE_TIMEOUT."""

    _answered_at = float("-inf")
    _clock_read_at = float("-inf")
    _clock_ahead = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.prepared: set[bytes] = set()
        """The names of the statements that its session has (prepared.py)."""

    def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        """As psycopg's, except that the pool's check of a connection (an empty query) is rarely sent to the server.

        A server that ends says so, and closes: that can be read here, twice because its farewell comes first. Raises
        OperationalError.
        """
        if query != "":
            return super().execute(query, *args, **kwargs)
        if time.monotonic() - self._answered_at < TRUSTED_SECONDS:
            self.pgconn.consume_input()
            self.pgconn.consume_input()
        else:
            self._ask()
        return None

    def _ask(self) -> None:
        """Sends the empty query without a cursor. Raises OperationalError."""
        with self.lock:
            self.pgconn.send_query(b"")
            (result,) = self.wait(generators.execute(self.pgconn))
        if result.status != ExecStatus.EMPTY_QUERY:
            raise psycopg.OperationalError(result.get_error_message())

    def given_up_at(self) -> float:
        """When the answer to a statement sent now is waited for no longer: Unix time by the server's clock.

        A server that hangs executes a statement when it wakes up, long after the caller got an error. A statement that
        must not run then compares this clock. Raises OperationalError.
        """
        if time.monotonic() - self._clock_read_at > CLOCK_SECONDS:
            row = psycopg.Cursor(self).execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
            assert row is not None
            self._clock_read_at = time.monotonic()
            self._clock_ahead = float(row[0]) - self._clock_read_at
        return self._clock_ahead + time.monotonic() + float(settings.DATABASE_TIMEOUT)

    def forget_clock(self) -> None:
        """Invalidates the cached clock offset, because the server's clock was set."""
        self._clock_read_at = float("-inf")

    def wait(self, gen: PQGen[T], interval: float = LOOK_EVERY_SECONDS, timeout: float | None = None) -> T:
        """The one place where psycopg waits for the server. Raises OperationalError."""
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            answer = self._wait(gen, interval)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()  # it still owes an answer, which must not be taken for the next one's
            raise
        self._answered_at = time.monotonic()
        return answer

    def _wait(self, gen: PQGen[T], interval: float) -> T:
        return super().wait(gen, interval, settings.DATABASE_TIMEOUT)


def bound_waits(*, cooperative: bool = False) -> None:
    """Limits this process's waits for PostgreSQL from now on; does nothing on SQLite. `cooperative`: under gevent."""
    if pool := connections[DEFAULT_DB_ALIAS].settings_dict["OPTIONS"].get("pool"):
        module = "cooperative.CooperativeConnection" if cooperative else "postgresql.BoundedConnection"
        pool["connection_class"] = import_string(f"predictions.database.{module}")


def has_bounded_pool() -> bool:
    """Whether this process limits its waits."""
    return "connection_class" in connections[DEFAULT_DB_ALIAS].settings_dict["OPTIONS"].get("pool", ())
