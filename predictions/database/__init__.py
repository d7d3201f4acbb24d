"""How the agent's processes speak with their database, and how they wait for it: sqlite3/ for other writers,
postgresql.py for the server. together.py has those wait for company who would wait anyhow.
"""

from contextlib import AbstractContextManager
from typing import Any

import psycopg
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connection, connections
from django.utils.module_loading import import_string

from predictions.database.prepared import PreparedCursor


def bound_answers(*, cooperative: bool = False) -> None:
    """From now on this process waits DATABASE_TIMEOUT seconds for an answer of PostgreSQL; until then for ever.

    `cooperative`: it is one of gevent's greenlets.
    """
    pool = connection.settings_dict["OPTIONS"].get("pool")
    if pool:
        module = "cooperative.CooperativeConnection" if cooperative else "postgresql.BoundedConnection"
        pool["connection_class"] = import_string(f"predictions.database.{module}")  # psycopg: SQLite does without


def lean_cursor(*, to_read: bool = False) -> AbstractContextManager[Any]:
    """A cursor for what every prediction does, outside a transaction. Raises django.db.Error.

    It is on a connection of its own (of PostgreSQL in web and workers alone): what Django does for each cursor and each
    loan is left out. Where Django holds a connection for this thread already, or somebody wants to see its queries,
    they go Django's way.
    """
    database = connections[DEFAULT_DB_ALIAS]
    if _goes_djangos_way(database):
        return database.cursor()
    if database.vendor == "sqlite":
        lent: AbstractContextManager[Any] = database.lent_cursor(to_read=to_read)  # type: ignore[attr-defined]
        return lent
    return _LentCursor(database) if _is_bounded(database) else database.cursor()


def may_go_together() -> bool:
    """Whether this thread's next write may go with those of others: where it would be lent a connection of PostgreSQL's
    for it, and `lean_cursor` knows execute_several."""
    database = connections[DEFAULT_DB_ALIAS]
    return settings.DATABASE_PREPARED_STATEMENTS and _is_bounded(database) and not _goes_djangos_way(database)


def _goes_djangos_way(database: Any) -> bool:
    return database.connection is not None or database.queries_logged or bool(database.execute_wrappers)


def _is_bounded(database: Any) -> bool:
    return "connection_class" in database.settings_dict["OPTIONS"].get("pool", ())


class _LentCursor(AbstractContextManager[Any]):
    def __init__(self, database: Any) -> None:
        self._database = database

    def __enter__(self) -> Any:
        with self._database.wrap_database_errors:
            self._pool = self._database.pool
            if self._pool.closed:
                self._pool.open()
            self._lent = self._pool.getconn()
        return PreparedCursor(self._lent) if settings.DATABASE_PREPARED_STATEMENTS else psycopg.Cursor(self._lent)

    def __exit__(self, *error: Any) -> None:
        self._pool.putconn(self._lent)
        if isinstance(error[1], psycopg.Error):
            self._database.wrap_database_errors.__exit__(*error)  # raises Django's
