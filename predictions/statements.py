"""The statements of every prediction, composed once: the ORM takes longer to build them than the database to run them.

Rare statements use the ORM. Conditions on a status list the other statuses, see models.status_is.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from django.db import DEFAULT_DB_ALIAS, DataError, IntegrityError, OperationalError, connections
from django.db.models import (
    BooleanField,
    CharField,
    DateTimeField,
    FloatField,
    IntegerField,
    PositiveSmallIntegerField,
    TextField,
)

from predictions.database.batcher import WriteBatcher
from predictions.database.cursors import can_batch, statement_cursor
from predictions.database.prepared import Answer
from predictions.models import Task, all_but

AT_ONCE = 2
"""While the server carries out some writes, this process composes the next."""
BATCH_SIZE = 32
SMALL = 16 * 1024
"""Largest value, in characters, that is written in a batch. Longer ones would delay the others."""

_FIELDS = {field.attname: field for field in Task._meta.concrete_fields}
_PLAIN = frozenset(
    name
    for name, field in _FIELDS.items()
    if type(field) in (BooleanField, CharField, FloatField, IntegerField, PositiveSmallIntegerField, TextField)
)
_TIMES = frozenset(name for name, field in _FIELDS.items() if type(field) is DateTimeField)
_TABLE = Task._meta.db_table
_COLUMNS = ", ".join(str(field.column) for field in _FIELDS.values())
_ALL_BUT_INPUTS = [name for name in _FIELDS if name != "inputs"]
_READ = f"SELECT {', '.join(str(_FIELDS[name].column) for name in _ALL_BUT_INPUTS)} FROM {_TABLE} WHERE id = %s"
_NOT_YET: dict[str, Any] = {
    "outputs": None,
    "running_time": None,
    "ended_at": None,
    "unreported": False,
    "error_info": "",
    "run_id": "",
    "upstream_id": "",
    "upstream_cancel": "",
}
"""Columns of a new task that are constants in the INSERT."""
_IN_TIME = "SELECT 1 / (clock_timestamp() < to_timestamp(%s))::int"
"""The last of several statements, which are done only when it has come: a DataError where that was too late."""


def insert(task: Task) -> None:
    """Raises django.db.Error: IntegrityError where there is a task of this id.

    In processes that limit the wait for an answer, the row is inserted within that time or never. (Every other
    statement names the state that it expects, and may be executed late.)
    """
    begins = all(getattr(task, name) == blank for name, blank in _NOT_YET.items())
    values = _prepared({name: getattr(task, name) for name in _FIELDS if not (begins and name in _NOT_YET)})
    if begins and _can_batch(values):
        _insert_batched(values)
    else:
        _insert_alone(values, begins=begins)
    task._state.adding, task._state.db = False, DEFAULT_DB_ALIAS


def _insert_alone(values: Sequence[Any], *, begins: bool = True) -> Answer:
    with statement_cursor() as cursor:
        if hasattr(cursor.connection, "given_up_at"):
            _insert_in_time(cursor, _insert(begins=begins, in_time=True), values)
        else:
            cursor.execute(_insert(begins=begins, in_time=False), values)
        return Answer(1, [])


def _insert_in_time(cursor: Any, sql: str, values: Sequence[Any]) -> None:
    """Twice where nothing was made, for the server's clock may have been set since it was read."""
    for _ in range(2):
        cursor.execute(sql, [*values, cursor.connection.given_up_at()])
        if cursor.rowcount:
            return
        cursor.connection.forget_clock()
    raise OperationalError("the server's clock does not go on as it was read")


def _insert_batch(rows: Sequence[Sequence[Any]]) -> list[Answer | None]:
    return _write_batch(_insert(begins=True, in_time=True), rows, in_time=True)


_insert_batched = WriteBatcher(_insert_alone, _insert_batch, at_once=AT_ONCE, size=BATCH_SIZE)


def move(task_id: str, *, comes_from: Sequence[str], run_id: str | None, changes: Mapping[str, Any]) -> bool:
    """Changes a task if its status is one of `comes_from`, and with `run_id` if that is the run that has it.

    Whether it did. Raises django.db.Error.
    """
    others = _all_but(tuple(comes_from))
    update = _move(tuple(changes), len(others), by_run=run_id is not None)
    run = [] if run_id is None else [run_id]
    return bool(update([*_prepared(changes), task_id, *others, *run]).changed)


def start(
    task_id: str, *, run_id: str, moment: datetime, lost: Sequence[str], handed_back: Sequence[str], attempts: int
) -> Task | None:
    """Starts a new run of a task that is pending or whose run has ended; None if another run has the task.

    After a run that was lost (one of `lost`, or the one that the pending row names) it is the next attempt, of which
    there are at most `attempts`. Raises django.db.Error.
    """
    at = _prepared({"started_at": moment, "updated_at": moment})
    params = [run_id, task_id, *at, *lost, task_id, *handed_back, *lost, attempts]
    rows = _start(len(lost), len(handed_back))(params).rows
    return _loaded(rows[0]) if rows else None


def read(task_id: str) -> Task | None:
    """The task as it stands, its inputs still to be read. Raises django.db.Error."""
    with statement_cursor(only_reads=True) as cursor:
        cursor.execute(_READ, [task_id])
        rows = cursor.fetchall()
    return _loaded(rows[0], _ALL_BUT_INPUTS) if rows else None


class _Update:
    """A statement that changes one row, or none."""

    def __init__(self, *, changes: str, condition: str, returning: str = "") -> None:
        self._sql = f"UPDATE {_TABLE} SET {changes} WHERE {condition}{returning}"
        free = f"SELECT id FROM {_TABLE} WHERE {condition} FOR NO KEY UPDATE SKIP LOCKED"
        self._batch_sql = f"UPDATE {_TABLE} SET {changes} WHERE id = ({free}){returning}"
        self._returns = bool(returning)
        self._batcher = WriteBatcher(self._alone, self._write_batch, at_once=AT_ONCE, size=BATCH_SIZE)

    def __call__(self, values: Sequence[Any]) -> Answer:
        """Raises django.db.Error."""
        return self._batcher(values) if _can_batch(values) else self._alone(values)

    def _alone(self, values: Sequence[Any]) -> Answer:
        with statement_cursor() as cursor:
            cursor.execute(self._sql, values)
            rows = cursor.fetchall() if self._returns else []
            return Answer(cursor.rowcount, rows)

    def _write_batch(self, rows: Sequence[Sequence[Any]]) -> list[Answer | None]:
        """A row that another transaction locks is left out, and its writer waits for it alone."""
        return _write_batch(self._batch_sql, rows)


def _write_batch(sql: str, rows: Sequence[Sequence[Any]], *, in_time: bool = False) -> list[Answer | None]:
    """The answer for each row, None for one that is to go alone."""
    try:
        with statement_cursor() as cursor:
            end = [cursor.connection.given_up_at()] if in_time else []
            statements = [(sql, [*row, *end]) for row in rows]
            answers: list[Answer] = cursor.execute_batch([*statements, (_IN_TIME, end)] if in_time else statements)
    except (IntegrityError, DataError, UnicodeEncodeError):  # of one of them, and nothing is done
        return [None] * len(rows)
    return [answer if answer.changed else None for answer in answers[: len(rows)]]


def _can_batch(values: Sequence[Any]) -> bool:
    return can_batch() and max([len(value) for value in values if isinstance(value, str)]) <= SMALL


def _loaded(row: Sequence[Any], names: Iterable[str] = _FIELDS) -> Task:
    """The task of a row with these columns, as the driver gave them."""
    database = connections[DEFAULT_DB_ALIAS]
    values = dict(zip(names, row, strict=True))
    for name, column, converters in _converters(database.vendor):
        if name not in values:
            continue
        for convert in converters:
            values[name] = convert(values[name], column, database)
    return Task.loaded(values)


@lru_cache
def _converters(vendor: str) -> list[tuple[str, Any, list[Any]]]:
    """What Django makes of columns that this database's driver gives in another form: name, expression, converters."""
    database = connections[DEFAULT_DB_ALIAS]
    columns = [(name, field.cached_col) for name, field in _FIELDS.items()]
    found = [
        (name, column, [*database.ops.get_db_converters(column), *column.get_db_converters(database)])
        for name, column in columns
    ]
    return [(name, column, converters) for name, column, converters in found if converters]


def _prepared(values: Mapping[str, Any]) -> list[Any]:
    """Values as the database's driver takes them; text and numbers it takes as they are."""
    database = connections[DEFAULT_DB_ALIAS]
    return [
        value
        if value is None or name in _PLAIN
        else database.ops.adapt_datetimefield_value(value)
        if name in _TIMES
        else _FIELDS[name].get_db_prep_save(value, database)
        for name, value in values.items()
    ]


_all_but = lru_cache(all_but)


@lru_cache
def _insert(*, begins: bool, in_time: bool) -> str:
    constants = {None: "NULL", False: "FALSE", "": "''"}
    values = ", ".join(constants[_NOT_YET[name]] if begins and name in _NOT_YET else "%s" for name in _FIELDS)
    in_time_values = f"SELECT {values} WHERE clock_timestamp() < to_timestamp(%s)"
    return f"INSERT INTO {_TABLE} ({_COLUMNS}) {in_time_values if in_time else f'VALUES ({values})'}"


@lru_cache
def _move(names: tuple[str, ...], others: int, *, by_run: bool) -> _Update:
    changes = ", ".join(f"{_FIELDS[name].column} = %s" for name in names)
    condition = f"id = %s AND status NOT IN ({_marks(others)})" + (" AND run_id = %s" if by_run else "")
    return _Update(changes=changes, condition=condition)


@lru_cache
def _start(lost: int, handed_back: int) -> _Update:
    after_lost = f"(({_is('running')} AND run_id IN ({_marks(lost)})) OR ({_is('pending')} AND run_id <> ''))"
    after_hand_back = f"({_is('running')} AND run_id IN ({_marks(handed_back)}))"
    waiting = f"({_is('pending')} AND run_id = '')"
    attempt = f"CASE WHEN {after_lost} THEN attempt + 1 WHEN attempt < 1 THEN 1 ELSE attempt END"
    return _Update(
        changes="status = 'running', run_id = %s, queue_id = %s, started_at = %s, updated_at = %s,"
        f" attempt = {attempt}",
        condition=f"id = %s AND ({waiting} OR {after_hand_back} OR ({after_lost} AND attempt < %s))",
        returning=f" RETURNING {_COLUMNS}",
    )


def _is(status: str) -> str:
    others = ", ".join(f"'{other}'" for other in all_but([status]))
    return f"status NOT IN ({others})"


def _marks(count: int) -> str:
    """Placeholders of a list; an empty one has nothing in it."""
    return ", ".join(["%s"] * count) or "NULL"
