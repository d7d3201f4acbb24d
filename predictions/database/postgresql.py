"""PostgreSQL connections that wait for an answer only so long, in the processes that serve callers and tasks.

A server that hangs takes no part in its own `statement_timeout`, and its kernel goes on acknowledging packets. So the
time is kept here. Commands such as `migrate` wait for as long as it takes.
"""

from typing import Any, TypeVar

import psycopg
from django.conf import settings
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus

T = TypeVar("T")

LOOK_EVERY_SECONDS = 0.1


class BoundedConnection(psycopg.Connection[Any]):
    """Given up when the server has not answered within DATABASE_TIMEOUT."""

    def wait(self, gen: PQGen[T], interval: float = LOOK_EVERY_SECONDS, timeout: float | None = None) -> T:
        """The one place where psycopg waits for the server. Raises OperationalError."""
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, settings.DATABASE_TIMEOUT)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()  # it still owes an answer, which must not be taken for the next one's
            raise
