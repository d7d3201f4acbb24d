"""Which connection executes a statement of a prediction.

Django's own is bound to its thread, and costs about as much to borrow and return as the statement takes.
"""

from contextlib import AbstractContextManager
from typing import Any

import psycopg
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections

from predictions.database.postgresql import has_bounded_pool
from predictions.database.prepared import PreparedCursor


def statement_cursor(*, only_reads: bool = False) -> AbstractContextManager[Any]:
    """A cursor for one statement outside a transaction; its connection returns to the pool afterwards.

    Raises django.db.Error.
    """
    database: Any = connections[DEFAULT_DB_ALIAS]
    if not _needs_djangos(database):
        if database.vendor == "sqlite":
            return database.shared_cursor(only_reads=only_reads)  # type: ignore[no-any-return]
        if has_bounded_pool():
            return _PooledCursor(database)
    return database.temporary_connection()  # type: ignore[no-any-return]


def can_batch() -> bool:
    """Whether this thread's next write may share a batch: on PostgreSQL, in web and worker processes."""
    return (
        settings.DATABASE_PREPARED_STATEMENTS
        and has_bounded_pool()
        and not _needs_djangos(connections[DEFAULT_DB_ALIAS])
    )


def _needs_djangos(database: Any) -> bool:
    """Django holds a connection, in a transaction for example, or somebody watches its queries."""
    return database.connection is not None or database.queries_logged or bool(database.execute_wrappers)


class _PooledCursor(AbstractContextManager[Any]):
    def __init__(self, database: Any) -> None:
        self._database = database

    def __enter__(self) -> Any:
        with self._database.wrap_database_errors:
            self._pool = self._database.pool
            if self._pool.closed:
                self._pool.open()
            self._borrowed = self._pool.getconn()
        return (
            PreparedCursor(self._borrowed) if settings.DATABASE_PREPARED_STATEMENTS else psycopg.Cursor(self._borrowed)
        )

    def __exit__(self, *error: Any) -> None:
        self._pool.putconn(self._borrowed)
        if isinstance(error[1], psycopg.Error):
            self._database.wrap_database_errors.__exit__(*error)  # raises Django's
