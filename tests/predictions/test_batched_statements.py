"""What several callers write in one round trip to PostgreSQL is what each of them would have written alone."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import DataError, IntegrityError, OperationalError, connection, connections
from django.utils.timezone import now

from predictions import statements
from predictions.database import cursors
from predictions.database.batcher import WriteBatcher
from predictions.database.postgresql import bound_waits
from predictions.database.prepared import PreparedCursor, _named
from predictions.models import Task
from tests.helpers.factories import TaskFactory
from tests.helpers.waiting import until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time: nothing goes together"),
]

HOSTILE = ['"', "\\", "{", "NULL", "", " ", "\n\t", "'; --", "ä", "\U0001f600", '{"a","b"}', "\\N", "%s"]


@pytest.fixture(autouse=True)
def lends(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Connections are lent as in web and worker processes."""
    options = connection.settings_dict["OPTIONS"]
    monkeypatch.setitem(options, "pool", dict(options.get("pool") or {"max_size": 4}))
    bound_waits()
    connection.close()
    connection.close_pool()
    assert cursors.can_batch()
    yield
    connection.close()
    connection.close_pool()


@pytest.fixture
def round_trips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many statements each of them carries."""
    noted: list[int] = []

    def noting(carry_out: Any, count: Callable[[Any], int]) -> Any:
        def noted_first(cursor: PreparedCursor, *what: Any) -> Any:
            noted.append(count(what[0]))
            return carry_out(cursor, *what)

        return noted_first

    monkeypatch.setattr(PreparedCursor, "execute", noting(PreparedCursor.execute, lambda sql: 1))
    monkeypatch.setattr(PreparedCursor, "execute_batch", noting(PreparedCursor.execute_batch, len))
    return noted


def at_the_same_time(together: WriteBatcher[Any, Any], calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each answers or raises, where all of them come while others are under way."""

    def outcome(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            return error

    assert together._under_way == 0
    together._under_way = statements.AT_ONCE
    with ThreadPoolExecutor(len(calls)) as callers:
        told = []
        for call in calls:
            told.append(callers.submit(outcome, call))
            until(lambda: len(together._queue) == len(told))
        together._pass_on()
    for _ in range(statements.AT_ONCE - 1):
        together._pass_on()
    assert together._under_way == 0
    return [each.result() for each in told]


def begun(**values: Any) -> Task:
    return Task(**{"agent": "default", "platform": "local", "model_name": "m", "status": "running", **values})


def begin(tasks: Sequence[Task]) -> list[Any]:
    return at_the_same_time(statements._insert_batched, [lambda task=task: statements.insert(task) for task in tasks])


def end(tasks: Sequence[Task], **changes: Any) -> list[Any]:
    changes = {"status": "succeeded", "outputs": None, "ended_at": now(), **changes}

    def ends(task: Task) -> Callable[[], bool]:
        return lambda: statements.move(task.pk, comes_from=["running"], run_id=task.run_id, changes=changes)

    update = statements._move(tuple(changes), len(statements._all_but(("running",))), by_run=True)
    return at_the_same_time(update._batcher, [ends(task) for task in tasks])


def start(ids_and_runs: Sequence[tuple[str, str]], *, lost: Sequence[str] = ()) -> list[Any]:
    moment = now()

    def starts(task_id: str, run_id: str) -> Callable[[], Task | None]:
        return lambda: statements.start(task_id, run_id=run_id, moment=moment, lost=lost, handed_back=[], attempts=2)

    update = statements._start(len(lost), 0)
    return at_the_same_time(update._batcher, [starts(*each) for each in ids_and_runs])


def values_of(task: Task) -> dict[str, Any]:
    return {name: value for name, value in vars(task).items() if name != "_state"}


def recorded(task: Task) -> Task:
    found = Task.objects.get(pk=task.pk)
    connection.close()
    return found


def made(**values: Any) -> Task:
    task = TaskFactory(**values)
    connection.close()
    return task


def test_tasks_that_begin_at_the_same_time_are_made_in_one_round_trip_and_are_as_they_are_alone(
    round_trips: list[int],
) -> None:
    tasks = [begun(model_name=f"m{text}", user_id=text, inputs={text: [text, None]}) for text in HOSTILE]
    tasks += [begun(inputs=None), begun(queue_num=3, status="pending")]
    assert begin(tasks) == [None] * len(tasks)
    assert max(round_trips) == len(tasks) + 1  # and whether it was in time
    assert all(values_of(recorded(task)) == values_of(task) for task in tasks)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"model_name": "m" * 1000}, DataError),
        ({"model_name": "m\0"}, DataError),
        ({"model_name": "m\ud800"}, UnicodeEncodeError),
    ],
)
def test_of_tasks_that_begin_at_the_same_time_one_that_cannot_be_written_fails_alone(
    wrong: dict[str, Any], error: type[Exception]
) -> None:
    tasks = [begun(), begun(**wrong), begun()]
    assert [type(each) for each in begin(tasks)] == [type(None), error, type(None)]
    assert Task.objects.count() == 2


def test_of_tasks_that_begin_at_the_same_time_one_that_is_there_already_fails_alone() -> None:
    tasks = [begun() for _ in range(3)]
    statements.insert(tasks[1])
    assert [type(each) for each in begin(tasks)] == [type(None), IntegrityError, type(None)]
    assert Task.objects.count() == 3


def test_tasks_whose_time_is_up_when_the_last_of_them_is_written_are_not_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server hangs amid them: what it had done by then is not to be kept."""
    rows = [statements._prepared({name: getattr(begun(), name) for name in statements._FIELDS}) for _ in range(3)]
    late = "SELECT 1 / (clock_timestamp() < to_timestamp(%s - 3600))::int"
    monkeypatch.setattr(statements, "_IN_TIME", late)
    sql = statements._insert(begins=False, in_time=True)
    assert statements._write_batch(sql, rows, in_time=True) == [None] * 3
    assert Task.objects.count() == 0


def test_tasks_that_end_at_the_same_time_end_in_one_round_trip_and_only_those_whose_run_it_is(
    round_trips: list[int],
) -> None:
    tasks = [made(status="running", run_id=f"run{number}") for number in range(len(HOSTILE))]
    ended, anothers, gone = made(status="failed"), made(status="running", run_id="other"), begun()
    anothers.run_id = "mine"
    told = end([*tasks, ended, anothers, gone], outputs={"said": HOSTILE}, running_time=0.5)
    assert told == [True] * len(tasks) + [False] * 3
    assert max(round_trips) == len(told)
    for task in tasks:
        assert (recorded(task).status, recorded(task).outputs) == ("succeeded", {"said": HOSTILE})
    assert [recorded(task).status for task in (ended, anothers)] == ["failed", "running"]


def test_of_two_that_end_one_task_at_the_same_time_one_does() -> None:
    task, other = made(status="running"), made(status="running")
    told = end([task, task, other])
    assert sorted(told[:2]) == [False, True]
    assert told[2]


def test_of_tasks_that_end_at_the_same_time_one_that_cannot_be_written_fails_alone() -> None:
    tasks = [made(status="running", run_id="mine") for _ in range(3)]
    tasks[1].run_id = "\ud800"
    assert [type(each) for each in end(tasks)] == [bool, UnicodeEncodeError, bool]
    assert [recorded(task).status for task in tasks] == ["succeeded", "running", "succeeded"]


def test_tasks_that_are_started_at_the_same_time_are_as_they_are_alone(round_trips: list[int]) -> None:
    pending = [made(status="pending", inputs={"n": text}, attempt=number) for number, text in enumerate(HOSTILE)]
    running = made(status="running", run_id="another")
    told = start([(task.pk, f"run {task.pk}") for task in [*pending, running, begun()]])
    assert told[len(pending) :] == [None, None]
    assert max(round_trips) == len(told)
    for task, before in zip(told, pending, strict=False):
        assert values_of(recorded(task)) == values_of(task)
        assert (task.status, task.run_id, task.queue_id) == ("running", f"run {task.pk}", task.pk)
        assert (task.inputs, task.attempt) == (before.inputs, max(before.attempt, 1))


def test_of_two_that_start_one_task_at_the_same_time_one_has_it() -> None:
    task, other = made(status="pending"), made(status="pending")
    told = start([(task.pk, "a"), (task.pk, "b"), (other.pk, "c")])
    assert [each.run_id if each else None for each in told] == ["a", None, "c"]
    assert recorded(task).run_id == "a"


def test_after_a_lost_run_the_next_attempt_starts_among_others_too() -> None:
    after_lost = made(status="running", run_id="lost", attempt=1)
    tried_enough = made(status="running", run_id="lost", attempt=2)
    told = start([(after_lost.pk, "a"), (tried_enough.pk, "b"), (made(status="pending").pk, "c")], lost=["lost"])
    assert [each.attempt if each else None for each in told] == [2, None, 1]


def test_a_task_that_somebody_else_holds_keeps_no_other_waiting(settings: Any) -> None:
    """An operator's open transaction, say."""
    settings.DATABASE_TIMEOUT = 2
    tasks = [made(status="running", run_id="mine") for _ in range(3)]
    holder = connections.create_connection("default")
    with holder.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("UPDATE predictions_task SET user_id = 'held' WHERE id = %s", [tasks[1].pk])
        told = end(tasks)
        cursor.execute("ROLLBACK")
    holder.close()
    assert [type(each) for each in told] == [bool, OperationalError, bool]
    assert [recorded(task).status for task in (tasks[0], tasks[2])] == ["succeeded", "succeeded"]


def test_what_is_long_goes_alone(round_trips: list[int]) -> None:
    tasks = [begun(inputs={"text": "x" * statements.SMALL}) for _ in range(2)]
    statements._insert_batched._under_way = statements.AT_ONCE
    try:
        for task in tasks:
            statements.insert(task)  # and does not wait for its turn
    finally:
        statements._insert_batched._under_way = 0
    assert all(values_of(recorded(task)) == values_of(task) for task in tasks)


def test_a_row_is_found_by_its_id_also_by_a_plan_made_when_the_table_was_empty() -> None:
    """A connection keeps its plans while the table grows."""
    updates = [statements._move(("status",), 4, by_run=True), statements._start(1, 1)]
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE predictions_task CASCADE")
        cursor.execute("SET plan_cache_mode = force_generic_plan")
        for number, update in enumerate(updates):
            _, statement = _named(update._batch_sql)
            cursor.execute(b"PREPARE among_%d AS " % number + statement)
            nulls = ", ".join(["NULL"] * update._batch_sql.count("%s"))
            cursor.execute(f"EXPLAIN EXECUTE among_{number} ({nulls})")
            plan = "\n".join(line for (line,) in cursor.fetchall())
            assert "Index Scan" in plan
            assert "Seq Scan" not in plan
        cursor.execute("DEALLOCATE ALL")
        cursor.execute("RESET plan_cache_mode")
