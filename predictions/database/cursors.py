"""Which connection executes a statement of a prediction.

Django's own is bound to its thread, and costs about as much to borrow and return as the statement takes.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
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
            return _pooled_cursor(database)
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


@contextmanager
def _pooled_cursor(database: Any) -> Iterator[Any]:
    with database.wrap_database_errors:
        pool = database.pool
        if pool.closed:
            pool.open()
        borrowed = pool.getconn()
        try:
            yield PreparedCursor(borrowed) if settings.DATABASE_PREPARED_STATEMENTS else psycopg.Cursor(borrowed)
        finally:
            pool.putconn(borrowed)
