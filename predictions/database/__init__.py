"""How the agent's processes wait for their database: sqlite3/ for other writers, postgresql.py for the server."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from django.db import connection
from django.utils.module_loading import import_string

_certain: ContextVar[bool] = ContextVar("certain", default=False)


def bound_answers(*, cooperative: bool = False) -> None:
    """From now on this process waits DATABASE_TIMEOUT seconds for an answer of PostgreSQL; until then for ever.

    `cooperative`: it is one of gevent's greenlets.
    """
    pool = connection.settings_dict["OPTIONS"].get("pool")
    if pool:
        module = "cooperative.CooperativeConnection" if cooperative else "postgresql.BoundedConnection"
        pool["connection_class"] = import_string(f"predictions.database.{module}")  # psycopg: SQLite does without


@contextmanager
def certain_connection() -> Iterator[None]:
    """Inside the block a pooled connection is lent only after the server has answered on it.

    For a new row: a server that hangs would make it when it wakes, long after its caller was told that it failed.
    Every other change says what it expects to find, and may be made late or twice.
    """
    token = _certain.set(True)
    try:
        yield
    finally:
        _certain.reset(token)


def must_be_certain() -> bool:
    return _certain.get()
