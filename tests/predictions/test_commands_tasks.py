"""`manage.py tasks`: they are listed, shown, canceled and followed."""

from collections.abc import Callable
from datetime import timedelta
from threading import Event
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils.timezone import now
from rest_framework.test import APIClient

from predictions.management.following import changes
from predictions.models import Task
from predictions.queue import queue
from tests.helpers.api import submit
from tests.helpers.factories import task
from tests.predictions.commands import Shell, listens, move

NOWHERE = "00000000-0000-0000-0000-000000000000"


def test_tasks_are_listed_newest_first(shell: Shell) -> None:
    older = task("failed", 60, error_info="no such flower", user_id="anna", running_time=0.25)
    newer = task("running", 5, model_name="wine", platform="kserve")
    head, first, second = shell("tasks", "list").out.splitlines()
    assert head.split() == ["ID", "STATUS", "MODEL", "PLATFORM", "USER", "SUBMITTED", "(UTC)", "RUN", "TIME"]
    assert first.split()[:4] == [newer.pk, "running", "wine", "kserve"]
    assert (second.split()[0], second.split()[4], second.endswith("0.250 s")) == (older.pk, "anna", True)
    document = shell("tasks", "list", "--json").json
    assert [row["id"] for row in document["tasks"]] == [newer.pk, older.pk]
    assert document["tasks"][1]["error_info"] == "no such flower"
    assert document["tasks"][1]["running_time"] == 0.25


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("--status failed", ["c"]),
        ("--model wine", ["b"]),
        ("--user anna", ["c"]),
        ("--platform kserve", ["b"]),
        ("--since 1h", ["b", "a"]),
        ("--since 2020-01-01 --limit 1", ["b"]),
        ("--since 2100-01-01T10:00+02:00", []),
        ("--status failed --model wine", []),
    ],
)
def test_the_list_takes_filters(shell: Shell, asked: str, found: list[str]) -> None:
    task("succeeded", 60, id="a")
    task("running", 5, id="b", model_name="wine", platform="kserve")
    task("failed", 7200, id="c", user_id="anna")
    assert [row["id"] for row in shell("tasks", "list", *asked.split(), "--json").json["tasks"]] == found


def test_names_that_callers_chose_do_nothing_to_a_terminal(shell: Shell) -> None:
    task("failed", 5, id="x", user_id="\x1b[2J\r\nme", error_info="\x1b]0;title\x07")
    for said in (shell("tasks", "list"), shell("tasks", "show", "x"), shell("tasks", "list", "--json")):
        assert "\x1b" not in said.out
        assert "\x07" not in said.out
    assert len(shell("tasks", "list").out.splitlines()) == 2


def test_a_task_is_shown_with_its_inputs_and_outputs(shell: Shell) -> None:
    task("succeeded", 5, id="x", inputs={"petal": "weiß"}, outputs=["\ud800"], upstream_id="job-1", request_id="r1")
    document = shell("tasks", "show", "x", "--json").json
    assert (document["inputs"], document["outputs"]) == ({"petal": "weiß"}, ["\ud800"])
    assert (document["status"], document["upstream_id"], document["request_id"]) == ("succeeded", "job-1", "r1")
    text = shell("tasks", "show", "x").out
    assert '"petal": "weiß"' in text
    assert "upstream_id:     job-1" in text


@pytest.mark.parametrize("command", ["show", "follow"])
def test_an_unknown_task_is_reported(shell: Shell, command: str) -> None:
    said = shell("tasks", command, NOWHERE, "--json")
    assert (said.code, said.json["code"]) == (1, "not_found")
    assert f"There is no task {NOWHERE}." in said.err


def test_canceling_reports_the_outcome_of_each_task(shell: Shell, client: APIClient) -> None:
    waiting, running, ended = submit(client), task("running", 5).pk, task("failed", 5).pk
    other = task("running", 5, agent="other").pk
    said = shell("tasks", "cancel", waiting, running, ended, other, NOWHERE, "--json")
    assert said.code == 1
    assert (said.json["canceled"], said.json["ending"]) == ([waiting], [running])
    assert {row["id"]: row["code"] for row in said.json["failed"]} == {
        ended: "already_finished",
        other: "not_ours",
        NOWHERE: "not_found",
    }
    assert queue.sizes().waiting == 0
    again = shell("tasks", "cancel", running)
    assert (again.code, again.out) == (1, f"{running}: the task has already ended: canceled\n")


class Steps(Event):
    """Instead of waiting between two looks at the tasks, takes the next step; interrupted after the last."""

    def __init__(self, *steps: Callable[[], Any]) -> None:
        super().__init__()
        self._steps = list(steps)

    def wait(self, timeout: float | None = None) -> bool:
        if self._steps:
            self._steps.pop(0)()
            return False
        return True


def test_follow_prints_every_change_once() -> None:
    first, second = task("pending", 5), task("running", 4, attempt=1)
    steps = Steps(
        lambda: None,
        lambda: move(first, "running", attempt=1),
        lambda: (move(first, "succeeded"), move(second, "running", attempt=2)),
        lambda: move(second, "failed"),
        lambda: pytest.fail("it looked again after all had ended"),
    )
    told = [(row.pk, row.status, row.attempt) for row in changes(Task.objects.all(), steps, ids=[first.pk, second.pk])]
    assert told == [
        (first.pk, "pending", 0),
        (second.pk, "running", 1),
        (first.pk, "running", 1),
        (first.pk, "succeeded", 1),
        (second.pk, "running", 2),
        (second.pk, "failed", 2),
    ]


def test_follow_prints_new_tasks_until_they_end() -> None:
    old = task("running", 60)
    came: list[Task] = []
    steps = Steps(
        lambda: move(old, "succeeded"),
        lambda: came.append(task("pending", 0)),
        lambda: came.append(task("succeeded", 3)),  # seen late: its commit took three seconds
        lambda: move(came[0], "canceled"),
    )
    told = [(row.pk, row.status) for row in changes(Task.objects.all(), steps, since=now() - timedelta(seconds=4))]
    assert told == [(came[0].pk, "pending"), (came[1].pk, "succeeded"), (came[0].pk, "canceled")]


def test_tasks_are_followed_until_all_have_ended(shell: Shell) -> None:
    first, second = task("pending", 5), task("running", 5, attempt=1)

    def end_them() -> bool:
        move(first, "succeeded")
        move(second, "failed", error_info="too late", attempt=2)
        return False

    said = shell("tasks", "follow", first.pk, second.pk, "--json", ctrl_c=end_them)
    assert said.code == 1
    assert {row["id"]: row["status"] for row in said.lines} == {first.pk: "succeeded", second.pk: "failed"}
    assert " failed (attempt 2): too late\n" in shell("tasks", "follow", second.pk).out


def test_following_succeeded_tasks_exits_at_once_with_0(shell: Shell) -> None:
    done = task("succeeded", 5, running_time=1.5)
    said = shell("tasks", "follow", done.pk, done.pk)
    assert (said.code, said.out.count("succeeded in 1.500 s")) == (0, 1)


def test_ctrl_c_ends_following_new_tasks_with_130(shell: Shell) -> None:
    task("running", 60)
    said = shell("tasks", "follow", "--model", "iris", ctrl_c=listens)
    assert (said.code, said.out, said.err) == (130, "", "")


def test_ctrl_c_ends_following_a_task_and_leaves_it_alone(shell: Shell) -> None:
    running = task("running", 5)
    assert shell("tasks", "follow", running.pk, ctrl_c=listens).code == 130
    running.refresh_from_db()
    assert running.status == "running"


def test_a_list_costs_one_query_and_reads_no_outputs(shell: Shell) -> None:
    for _ in range(5):
        task("succeeded", 5)
    with CaptureQueriesContext(connection) as queries:
        call_command("tasks", "list", "--json")
    (query,) = [query["sql"] for query in queries if "predictions_task" in query["sql"]]
    assert '"outputs"' not in query
    assert '"inputs"' not in query
