"""What several callers write in one statement of PostgreSQL is what each of them would have written alone."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import IntegrityError, connection, connections
from django.utils.timezone import now

from predictions import database, statements
from predictions.database import bound_answers
from predictions.models import Task
from tests.factories import TaskFactory

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor == "sqlite", reason="it has one writer at a time"),
]

HOSTILE = ['"', "\\", "{", "}", ",", "NULL", "null", "", " ", "\n\t", "'; --", "ä", "\U0001f600", '{"a","b"}', "\\N", "%s"]


@pytest.fixture(autouse=True)
def lends(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Connections are lent as in web and worker processes."""
    options = connection.settings_dict["OPTIONS"]
    monkeypatch.setitem(options, "pool", dict(options.get("pool") or {"max_size": 4}))
    bound_answers()
    connection.close()
    connection.close_pool()
    assert database.may_go_together()
    yield
    connection.close()
    connection.close_pool()


def begun(**values: Any) -> Task:
    return Task.new(**{"agent": "default", "platform": "local", "model_name": "m", "status": "running", **values})


def rows_of(tasks: list[Task]) -> list[Any]:
    names = [name for name in statements._FIELDS if name not in statements._NOT_YET]
    return [statements._prepared({name: getattr(task, name) for name in names}) for task in tasks]


def seen(task_id: str) -> dict[str, Any]:
    values = vars(Task.objects.get(pk=task_id))
    connections["default"].close()
    return {name: value for name, value in values.items() if name != "_state"}


def test_tasks_that_begin_together_are_as_if_each_had_begun_alone() -> None:
    tasks = [begun(model_name=f"m{text}", user_id=text, inputs={text: [text, None]}) for text in HOSTILE]
    tasks += [begun(inputs=None), begun(queue_num=3, status="pending")]
    assert statements._begin_all(rows_of(tasks)) == [None] * len(tasks)
    for task in tasks:
        assert seen(task.pk) == {name: value for name, value in vars(task).items() if name != "_state"}


def test_of_tasks_that_begin_together_one_that_is_there_already_fails_alone() -> None:
    tasks = [begun() for _ in range(3)]
    statements.insert(tasks[1])
    told = statements._begin_all(rows_of(tasks))
    assert [type(each) for each in told] == [type(None), IntegrityError, type(None)]
    assert Task.objects.count() == 3


def test_of_tasks_that_begin_together_one_that_does_not_fit_fails_alone_and_is_not_cut() -> None:
    tasks = [begun(), begun(model_name="m" * 1000), begun()]
    told = statements._begin_all(rows_of(tasks))
    assert [isinstance(each, Exception) for each in told] == [False, True, False]
    assert Task.objects.count() == 2


def test_tasks_that_end_together_end_as_if_alone_and_only_those_whose_run_it_is() -> None:
    tasks = [TaskFactory(status="running", run_id=f"run{number}") for number in range(len(HOSTILE))]
    ended, anothers, gone = TaskFactory(status="succeeded"), TaskFactory(status="running", run_id="other"), begun()
    connection.close()
    moment = now()
    rows = []
    for task, text in zip([*tasks, ended, anothers, gone], [*HOSTILE, "x", "x", "x"], strict=True):
        changes = {"status": "succeeded", "outputs": {"said": text}, "running_time": 0.5, "ended_at": moment}
        rows.append([*statements._prepared(changes), task.pk, "mine" if task is anothers else task.run_id])
    move = statements.Move(tuple(changes), statements._all_but(("running",)), by_run=True)
    assert move.all(rows) == [True] * len(tasks) + [False] * 3
    for task, text in zip(tasks, HOSTILE, strict=True):
        read = Task.objects.get(pk=task.pk)
        assert (read.status, read.outputs, read.running_time, read.ended_at) == (
            "succeeded",
            {"said": text},
            0.5,
            moment,
        )
    assert Task.objects.get(pk=anothers.pk).status == "running"


def test_of_two_that_end_one_task_together_one_wins() -> None:
    task, other = TaskFactory(status="running"), TaskFactory(status="running")
    connection.close()
    move = statements.Move(("status", "error_info"), statements._all_but(("running",)), by_run=False)
    rows = [["failed", "first", task.pk], ["failed", "second", task.pk], ["failed", "other", other.pk]]
    assert move.all(rows) == [True, False, True]
    assert Task.objects.get(pk=task.pk).error_info == "first"


def test_tasks_that_are_started_together_are_as_if_each_was_started_alone() -> None:
    pending = [TaskFactory(status="pending", inputs={"n": text}, attempt=number) for number, text in enumerate(HOSTILE)]
    running = TaskFactory(status="running", run_id="another")
    connection.close()
    moment = statements._prepared({"started_at": now()})[0]
    rows = [(task.pk, f"run {task.pk}", moment) for task in [*pending, running, begun()]]
    told = statements._start_new(rows)
    assert told[len(pending) :] == [None, None]
    for task, before in zip(told, pending, strict=False):
        assert isinstance(task, Task)
        assert (task.status, task.run_id, task.queue_id) == ("running", f"run {task.pk}", task.pk)
        assert (task.inputs, task.attempt) == (before.inputs, max(before.attempt, 1))
        assert seen(task.pk) == {name: value for name, value in vars(task).items() if name != "_state"}


def test_of_two_that_start_one_task_together_one_has_it() -> None:
    task, other = TaskFactory(status="pending"), TaskFactory(status="pending")
    connection.close()
    moment = statements._prepared({"started_at": now()})[0]
    told = statements._start_new([(task.pk, "a", moment), (task.pk, "b", moment), (other.pk, "c", moment)])
    had = [each is not None for each in told]
    assert sorted(had[:2]) == [False, True]
    assert had[2]
    assert Task.objects.get(pk=task.pk).run_id == "ab"[had.index(True)]
