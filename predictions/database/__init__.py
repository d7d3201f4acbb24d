"""How the agent's processes speak with their database, and how they wait for it: sqlite3/ for other writers,
postgresql.py for the server.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connection, connections
from django.utils.module_loading import import_string


def bound_answers(*, cooperative: bool = False) -> None:
    """From now on this process waits DATABASE_TIMEOUT seconds for an answer of PostgreSQL; until then for ever.

    `cooperative`: it is one of gevent's greenlets.
    """
    pool = connection.settings_dict["OPTIONS"].get("pool")
    if pool:
        module = "cooperative.CooperativeConnection" if cooperative else "postgresql.BoundedConnection"
        pool["connection_class"] = import_string(f"predictions.database.{module}")  # psycopg: SQLite does without


@contextmanager
def lean_cursor() -> Iterator[Any]:
    """A cursor for what every prediction does, outside a transaction. Raises django.db.Error.

    On PostgreSQL it is psycopg's own, on a connection straight out of the pool: its statements are parsed and planned
    once a connection, and what Django does for each cursor and each loan is left out. Where Django holds a connection
    for this thread already, or somebody wants to see its queries, they go Django's way.
    """
    database = connections[DEFAULT_DB_ALIAS]
    pooled = "pool" in database.settings_dict["OPTIONS"]
    if not pooled or database.connection is not None or database.queries_logged or database.execute_wrappers:
        with database.cursor() as cursor:
            yield cursor
        return
    from psycopg import Cursor  # SQLite does without

    with database.wrap_database_errors:
        pool = database.pool  # type: ignore[attr-defined]
        pool.open()
        lent = pool.getconn()
        try:
            yield Cursor(lent)
        finally:
            pool.putconn(lent)
