"""The statements on the way of every prediction, composed once: made by the ORM anew for each, they cost more than they
take to run. What is rare is left to the ORM. Statuses are said by what they are not: see models.status_is.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

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

from predictions.database import lean_cursor, may_go_together
from predictions.database.prepared import array_of
from predictions.database.together import Together
from predictions.models import Task, all_but

R = TypeVar("R")

AT_ONCE = 2
"""One statement is carried out by the server while this process composes the next."""
MOST_TOGETHER = 32
SMALL = 16 * 1024
"""Characters of a value in a statement with others; what is longer goes alone."""

_FIELDS = {field.attname: field for field in Task._meta.concrete_fields}
_PLAIN = frozenset(
    name
    for name, field in _FIELDS.items()
    if type(field) in (BooleanField, CharField, FloatField, IntegerField, PositiveSmallIntegerField, TextField)
)
_TIMES = frozenset(name for name, field in _FIELDS.items() if type(field) is DateTimeField)
_TABLE = Task._meta.db_table
_COLUMNS = ", ".join(str(field.column) for field in _FIELDS.values())
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
"""What a task that begins here has not yet: constants of the statement that makes it, and not sent each time."""


def insert(task: Task) -> None:
    """Raises django.db.Error: IntegrityError where there is a task of this id.

    Where answers are waited for only so long the row is made within that time, or never. (Every other statement says
    what it expects to find, and may be done late.)
    """
    begins = all(getattr(task, name) == blank for name, blank in _NOT_YET.items())
    values = _prepared({name: getattr(task, name) for name in _FIELDS if not (begins and name in _NOT_YET)})
    if begins and may_go_together() and _is_small(values):
        _begin_together(values)
    else:
        _insert_one(values, begins=begins)
    task._state.adding, task._state.db = False, DEFAULT_DB_ALIAS


def _insert_one(values: Sequence[Any], *, begins: bool) -> None:
    with lean_cursor() as cursor:
        if hasattr(cursor.connection, "given_up_at"):
            _insert_in_time(cursor, _insert(begins=begins, in_time=True), values)
        else:
            cursor.execute(_insert(begins=begins, in_time=False), values)


def _begin_all(rows: Sequence[Sequence[Any]]) -> Sequence[None | Exception]:
    if len(rows) > 1:
        with suppress(IntegrityError, DataError), lean_cursor() as cursor:  # one of them is at fault, and none is made
            _insert_in_time(cursor, _insert_all(), _columns(rows))
            return [None] * len(rows)
    return [_outcome(_insert_one, row, begins=True) for row in rows]


_begin_together: Together[Sequence[Any], None] = Together(_begin_all, at_once=AT_ONCE, most=MOST_TOGETHER)


def _insert_in_time(cursor: Any, sql: str, values: Sequence[Any]) -> None:
    """Twice where nothing was made, for the server's clock may have been set since it was read."""
    for _ in range(2):
        cursor.execute(sql, [*values, cursor.connection.given_up_at()])
        if cursor.rowcount:
            return
        cursor.connection.forget_clock()
    raise OperationalError("the server's clock does not go on as it was read")


def move(task_id: str, *, comes_from: Sequence[str], run_id: str | None, changes: Mapping[str, Any]) -> bool:
    """Changes a task if its status is one of `comes_from`, and with `run_id` if that is the run that has it.

    Whether it did. Raises django.db.Error.
    """
    kind = Move(tuple(changes), _all_but(tuple(comes_from)), by_run=run_id is not None)
    row = [*_prepared(changes), task_id, *([] if run_id is None else [run_id])]
    if may_go_together() and _is_small(row):
        return _together(kind)(row)
    return kind.one(row)


class Move(NamedTuple):
    """What `move` says of its tasks, and can say of many in one statement. A row: the changes, the id, with `by_run`
    the run."""

    names: tuple[str, ...]
    others: tuple[str, ...]
    by_run: bool

    def one(self, row: Sequence[Any]) -> bool:
        at = len(self.names) + 1
        with lean_cursor() as cursor:
            cursor.execute(
                _move(self.names, len(self.others), by_run=self.by_run), [*row[:at], *self.others, *row[at:]]
            )
            return bool(cursor.rowcount)

    def all(self, rows: Sequence[Sequence[Any]]) -> Sequence[bool | Exception]:
        ids = [row[len(self.names)] for row in rows]
        if len(rows) > 1 and len(set(ids)) == len(ids):  # of two that move one task, one is to lose
            with suppress(IntegrityError, DataError), lean_cursor() as cursor:
                cursor.execute(_move_all(self), _columns(rows))
                moved = {task_id for (task_id,) in cursor.fetchall()}
                return [task_id in moved for task_id in ids]
        return [_outcome(self.one, row) for row in rows]


@lru_cache
def _together(kind: Move) -> Together[Sequence[Any], bool]:
    return Together(kind.all, at_once=AT_ONCE, most=MOST_TOGETHER)


def _outcome(write: Callable[..., R], row: Sequence[Any], **more: Any) -> R | Exception:
    try:
        return write(row, **more)
    except (IntegrityError, DataError) as error:
        return error


def _is_small(values: Sequence[Any]) -> bool:
    """Whether it costs the others little to wait for it, and is fit for an array."""
    return all(not isinstance(value, str) or (len(value) <= SMALL and "\0" not in value) for value in values)


def _columns(rows: Sequence[Sequence[Any]]) -> list[str]:
    return [array_of(column) for column in zip(*rows, strict=True)]


def start(
    task_id: str, *, run_id: str, moment: datetime, lost: Sequence[str], handed_back: Sequence[str], attempts: int
) -> Task | None:
    """Gives a task that is pending, or whose run is known to be over, to a new run; None where it is not to be had.

    After one of the runs `lost` it is the next attempt, of which there are at most `attempts`. Raises django.db.Error.
    """
    at, _ = _prepared({"started_at": moment, "updated_at": moment})
    if not lost and not handed_back and may_go_together():
        return _start_together((task_id, run_id, at))
    params = [run_id, task_id, at, at, *lost, task_id, *handed_back, *lost, attempts]
    with lean_cursor() as cursor:
        cursor.execute(_start(len(lost), len(handed_back)), params)
        rows = cursor.fetchall()
    return _loaded(rows[0]) if rows else None


def _start_new(rows: Sequence[Sequence[Any]]) -> Sequence[Task | None]:
    """Of tasks that no run has had."""
    with lean_cursor() as cursor:
        if len(rows) == 1:
            ((task_id, run_id, at),) = rows
            cursor.execute(_start(0, 0), [run_id, task_id, at, at, task_id, 0])
        else:
            cursor.execute(_start_all(), _columns(rows))
        started = {(task.pk, task.run_id): task for task in map(_loaded, cursor.fetchall())}
    return [started.get((task_id, run_id)) for task_id, run_id, _ in rows]


_start_together: Together[Sequence[Any], Task | None] = Together(_start_new, at_once=AT_ONCE, most=MOST_TOGETHER)


def _loaded(row: Sequence[Any]) -> Task:
    """The task of a row with all columns, as the driver gave them."""
    database = connections[DEFAULT_DB_ALIAS]
    values = dict(zip(_FIELDS, row, strict=True))
    for name, column, converters in _converters(database.vendor):
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


@lru_cache
def _all_but(statuses: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(all_but(statuses))


@lru_cache
def _insert(*, begins: bool, in_time: bool) -> str:
    constants = {None: "NULL", False: "FALSE", "": "''"}
    values = ", ".join(constants[_NOT_YET[name]] if begins and name in _NOT_YET else "%s" for name in _FIELDS)
    in_time_values = f"SELECT {values} WHERE clock_timestamp() < to_timestamp(%s)"
    return f"INSERT INTO {_TABLE} ({_COLUMNS}) {in_time_values if in_time else f'VALUES ({values})'}"


@lru_cache
def _insert_all() -> str:
    """Of tasks that begin, on PostgreSQL: `_insert`, for arrays of what is given for each."""
    given = [name for name in _FIELDS if name not in _NOT_YET]
    constants = {None: "NULL", False: "FALSE", "": "''"}
    values = ", ".join(constants[_NOT_YET[name]] if name in _NOT_YET else f"given.{name}" for name in _FIELDS)
    return (
        f"INSERT INTO {_TABLE} ({_COLUMNS})"
        f" SELECT {values} FROM unnest({_arrays(given)}) AS given ({', '.join(given)})"
        " WHERE clock_timestamp() < to_timestamp(%s)"
    )


@lru_cache
def _move_all(kind: Move) -> str:
    changes = ", ".join(f"{_FIELDS[name].column} = given.{name}" for name in kind.names)
    columns = [*kind.names, "id", *(["run_id"] if kind.by_run else [])]
    names = [*kind.names, "given_id", *(["given_run"] if kind.by_run else [])]
    others = ", ".join(f"'{status}'" for status in kind.others)
    return (
        f"UPDATE {_TABLE} AS task SET {changes}"
        f" FROM unnest({_arrays(columns)}) AS given ({', '.join(names)})"
        f" WHERE task.id = given.given_id AND task.status NOT IN ({others})"
        f"{' AND task.run_id = given.given_run' if kind.by_run else ''} RETURNING task.id"
    )


def _arrays(names: Iterable[str]) -> str:
    """Placeholders for an array of each column. Their types are without lengths: a cast would cut what is too long."""
    database = connections[DEFAULT_DB_ALIAS]
    types = [str(_FIELDS[name].db_type(database)).partition("(")[0] for name in names]
    return ", ".join(f"%s::{of}[]" for of in types)


@lru_cache
def _move(names: tuple[str, ...], others: int, *, by_run: bool) -> str:
    changes = ", ".join(f"{_FIELDS[name].column} = %s" for name in names)
    condition = f"id = %s AND status NOT IN ({_marks(others)})" + (" AND run_id = %s" if by_run else "")
    return f"UPDATE {_TABLE} SET {changes} WHERE {condition}"


@lru_cache
def _start(lost: int, handed_back: int) -> str:
    after_lost = f"({_is('running')} AND run_id IN ({_marks(lost)}))"
    after_hand_back = f"({_is('running')} AND run_id IN ({_marks(handed_back)}))"
    attempt = f"CASE WHEN {after_lost} THEN attempt + 1 WHEN attempt < 1 THEN 1 ELSE attempt END"
    return (
        f"UPDATE {_TABLE}"
        f" SET status = 'running', run_id = %s, queue_id = %s, started_at = %s, updated_at = %s, attempt = {attempt}"
        f" WHERE id = %s AND ({_is('pending')} OR {after_hand_back} OR ({after_lost} AND attempt < %s))"
        f" RETURNING {_COLUMNS}"
    )


@lru_cache
def _start_all() -> str:
    columns = ", ".join(f"task.{field.column}" for field in _FIELDS.values())
    return (
        f"UPDATE {_TABLE} AS task SET status = 'running', run_id = given.run, queue_id = given.given_id,"
        " started_at = given.moment, updated_at = given.moment, attempt = GREATEST(task.attempt, 1)"
        f" FROM unnest({_arrays(['id', 'run_id', 'started_at'])}) AS given (given_id, run, moment)"
        f" WHERE task.id = given.given_id AND task.{_is('pending')} RETURNING {columns}"
    )


def _is(status: str) -> str:
    others = ", ".join(f"'{other}'" for other in all_but([status]))
    return f"status NOT IN ({others})"


def _marks(count: int) -> str:
    """Placeholders of a list; an empty one has nothing in it."""
    return ", ".join(["%s"] * count) or "NULL"
