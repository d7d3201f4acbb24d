"""Prepared statements, sent with libpq instead of psycopg's cursor, which costs a third more CPU a prediction.

Parameters are sent as text; PostgreSQL infers their types from the statement.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from itertools import count
from typing import Any, NamedTuple

import psycopg
from psycopg import errors, generators
from psycopg.abc import PQGen
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from predictions.database.postgresql import BoundedConnection

Value = str | int | float | bool | datetime | None
Statement = tuple[str, Sequence[Value]]
Parameters = list[bytes | None]


class Answer(NamedTuple):
    """The number of rows that a statement wrote, and the rows that it returns."""

    changed: int
    rows: list[tuple[Any, ...]]


class PreparedCursor:
    """The part of a cursor that statements with `%s` and few result rows need."""

    rowcount = -1

    def __init__(self, connection: BoundedConnection) -> None:
        self.connection = connection
        self._result: Any = None

    def execute(self, sql: str, values: Sequence[Value]) -> None:
        """Raises psycopg.Error."""
        parameters = _as_texts(values)
        try:
            self._execute(sql, parameters)
        except errors.InvalidSqlStatementName:  # a pooler gave this connection another session
            self.connection.prepared.clear()
            self._execute(sql, parameters)

    def fetchall(self) -> list[tuple[Any, ...]]:
        """The rows of the last answer."""
        return self._rows(self._result)

    def execute_batch(self, statements: Sequence[Statement]) -> list[Answer]:
        """In one round trip and one transaction. Raises psycopg.Error."""
        several = [(sql, _as_texts(values)) for sql, values in statements]
        try:
            return self._execute_batch(several)
        except errors.InvalidSqlStatementName:  # as above
            self.connection.prepared.clear()
            return self._execute_batch(several)

    def _execute_batch(self, several: Sequence[tuple[str, Parameters]]) -> list[Answer]:
        named = [(self._prepared(sql), parameters) for sql, parameters in several]
        pgconn = self.connection.pgconn
        pgconn.enter_pipeline_mode()
        for name, parameters in named:
            pgconn.send_query_prepared(name, parameters)
        pgconn.pipeline_sync()
        *results, _synced = self.connection.wait(_results(pgconn, len(named) + 1))
        pgconn.exit_pipeline_mode()
        for result in results:
            _check(result)
        return [Answer(result.command_tuples or 0, self._rows(result)) for result in results]

    def _execute(self, sql: str, parameters: Parameters) -> None:
        self.connection.pgconn.send_query_prepared(self._prepared(sql), parameters)
        self._result = self._answer()
        self.rowcount = self._result.command_tuples or 0

    def _prepared(self, sql: str) -> bytes:
        """The name of the statement, which the session has from now on."""
        name, statement = _named(sql)
        if name not in self.connection.prepared:
            self.connection.pgconn.send_prepare(name, statement)
            with suppress(errors.DuplicatePreparedStatement):  # the pooler's session knows it already
                self._answer()
            self.connection.prepared.add(name)
        return name

    def _answer(self) -> PGresult:
        result: PGresult
        (result,) = self.connection.wait(generators.execute(self.connection.pgconn))
        _check(result)
        return result

    def _rows(self, result: PGresult) -> list[tuple[Any, ...]]:
        transformer = Transformer.from_context(self.connection)
        transformer.set_pgresult(result)
        return transformer.load_rows(0, result.ntuples, tuple)


def _results(pgconn: PGconn, count: int) -> PQGen[list[PGresult]]:
    """The results of a pipeline of `count` commands."""
    yield from generators.send(pgconn)
    results = []
    for _ in range(count):
        results += yield from generators.fetch_many(pgconn)
    return results


def _check(result: PGresult) -> None:
    """Raises psycopg.Error: of a pipeline's, the first that is wrong says why."""
    if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
        raise errors.error_from_result(result)


@lru_cache
def _named(sql: str) -> tuple[bytes, bytes]:
    """A name that is no other statement's, and the statement as PostgreSQL has it."""
    number = count(1)
    statement = re.sub("%s", lambda _: f"${next(number)}", sql).encode()
    return f"agent_{sha256(statement).hexdigest()[:32]}".encode(), statement


def _as_texts(values: Sequence[Value]) -> Parameters:
    # PostgreSQL reads booleans and dates as Python writes them
    texts = [value if value is None or isinstance(value, str) else str(value) for value in values]
    parameters = [None if text is None else text.encode() for text in texts]
    for parameter in parameters:
        if parameter is not None and b"\0" in parameter:
            raise psycopg.DataError("PostgreSQL has no text with a NUL in it")
    return parameters
