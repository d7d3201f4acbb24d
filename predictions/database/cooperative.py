"""PostgreSQL connections of a process of greenlets, which wait without a thread.

psycopg's own wait makes a poll object there, and what gevent puts behind one, anew for each statement.
"""

import time
from collections.abc import Callable
from typing import TypeVar

import psycopg
from django.conf import settings
from gevent.socket import wait_read, wait_readwrite, wait_write
from psycopg.abc import PQGen
from psycopg.waiting import Ready, Wait

from predictions.database.postgresql import BoundedConnection

T = TypeVar("T")

_WAITS: dict[int, Callable[..., None]] = {Wait.R: wait_read, Wait.W: wait_write, Wait.RW: wait_readwrite}


class CooperativeConnection(BoundedConnection):
    """Lets other greenlets run while it waits."""

    def _wait(self, gen: PQGen[T], interval: float) -> T:
        deadline = time.monotonic() + settings.DATABASE_TIMEOUT
        try:
            wanted = next(gen)
            while True:
                late = psycopg.OperationalError("the server did not answer in time")
                _WAITS[wanted](self.pgconn.socket, max(0.0, deadline - time.monotonic()), late)
                wanted = gen.send(Ready(wanted))
        except StopIteration as ended:
            answer: T = ended.value
            return answer
