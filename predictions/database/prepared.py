"""Statements that PostgreSQL parses and plans once a connection, spoken with libpq past psycopg's own cursor.

Everything is sent as text, of a type that the server takes from where it stands in the statement.
"""

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from itertools import count
from typing import Any

import psycopg
from psycopg import errors, generators
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus

from predictions.database.postgresql import BoundedConnection

Value = str | int | float | bool | datetime | None


class PreparedCursor:
    """What of a cursor is needed for statements with `%s` in them, and for an answer of few rows."""

    rowcount = -1

    def __init__(self, connection: BoundedConnection) -> None:
        self.connection = connection
        self._result: Any = None

    def execute(self, sql: str, values: Sequence[Value]) -> None:
        """Raises psycopg.Error."""
        parameters = [None if value is None else _as_text(value) for value in values]
        try:
            self._execute(sql, parameters)
        except errors.InvalidSqlStatementName:  # somebody between us and the server gave us another session
            self.connection.prepared.clear()
            self._execute(sql, parameters)

    def fetchall(self) -> list[tuple[Any, ...]]:
        """The rows of the last answer."""
        transformer = Transformer.from_context(self.connection)
        transformer.set_pgresult(self._result)
        return transformer.load_rows(0, self._result.ntuples, tuple)

    def _execute(self, sql: str, parameters: list[bytes | None]) -> None:
        name, statement = _named(sql)
        if name not in self.connection.prepared:
            self._prepare(name, statement)
        self.connection.pgconn.send_query_prepared(name, parameters)
        self._result = self._answer()
        self.rowcount = self._result.command_tuples or 0

    def _prepare(self, name: bytes, statement: bytes) -> None:
        self.connection.pgconn.send_prepare(name, statement)
        with suppress(errors.DuplicatePreparedStatement):  # in a session that was somebody else's
            self._answer()
        self.connection.prepared.add(name)

    def _answer(self) -> Any:
        (result,) = self.connection.wait(generators.execute(self.connection.pgconn))
        if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
            raise errors.error_from_result(result)
        return result


@lru_cache
def _named(sql: str) -> tuple[bytes, bytes]:
    """A name that is no other statement's, and the statement as PostgreSQL has it."""
    number = count(1)
    statement = re.sub("%s", lambda _: f"${next(number)}", sql).encode()
    return f"agent_{sha256(statement).hexdigest()[:32]}".encode(), statement


def _as_text(value: Value) -> bytes:
    if isinstance(value, str):
        text = value.encode()
        if b"\0" in text:
            raise psycopg.DataError("PostgreSQL has no text with a NUL in it")
        return text
    return str(value).encode()  # PostgreSQL reads true and false, and dates as Python writes them


def array_of(values: Iterable[Value]) -> str:
    """The values as PostgreSQL reads an array of any type that has no commas of its own."""
    return f"{{{','.join(map(_element, values))}}}"


def _element(value: Value) -> str:
    if value is None:
        return "NULL"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
