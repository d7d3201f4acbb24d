"""The command line: what every command does, the queue, and the checks that settle and delete."""

import re
import shlex
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import get_commands, load_command_class
from django.utils.timezone import now
from rest_framework.test import APIClient
from rq.defaults import RQ_KEY_PREFIX

from config.settings import PLATFORMS
from predictions.models import Task
from predictions.operations import maintenance
from predictions.queue import queue
from predictions.redis.connections import get_redis
from tests.helpers.api import submit
from tests.helpers.factories import task
from tests.helpers.pages import REFERENCE, UPGRADING
from tests.helpers.proxy import Proxy
from tests.predictions.commands import Shell, listens, move

OURS = ["version", "doctor", "init_check", "sweep_archive", "purge_tasks", "tasks", "predict", "queue"]
PROCESSES = ["rqworker", "scheduler"]
NOWHERE = "00000000-0000-0000-0000-000000000000"


# --- what every command does


@pytest.mark.parametrize("command", OURS)
def test_help_describes_a_command_and_gives_examples(shell: Shell, command: str) -> None:
    said = shell(command, "--help")
    assert said.code == 0
    assert load_command_class("predictions", command).help.splitlines()[0] in said.out
    assert re.search(rf"examples:\n  manage\.py {command}\s", said.out)


@pytest.mark.parametrize("command", PROCESSES)
def test_help_describes_a_process_which_takes_no_json(shell: Shell, command: str) -> None:
    said = shell(command, "--help")
    assert said.code == 0
    assert load_command_class("predictions", command).help.split()[:3] == said.out.split("\n\n")[1].split()[:3]
    assert "--json" not in said.out
    assert shell(command, "--json").code == 2


def documented_commands() -> list[str]:
    """The commands that the reference shows, without `.venv/bin/python manage.py`."""
    section = REFERENCE.partition("## Commands\n")[2]
    (block,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return [line.removeprefix(".venv/bin/python manage.py ") for line in block.splitlines()]


@pytest.mark.parametrize("line", documented_commands())
def test_a_command_that_the_reference_shows_runs(shell: Shell, configured: Callable[..., None], line: str) -> None:
    local = (PLATFORMS["local"][0], {**PLATFORMS["local"][1], "predictor": "examples.iris:predict"})
    configured(PLATFORMS={"local": local})
    said = shell(*shlex.split(line))
    assert (said.code, bool(said.out)) == (0, True)


def test_no_command_is_without_its_help() -> None:
    assert {name for name, app in get_commands().items() if app == "predictions"} == {*OURS, *PROCESSES}


@pytest.mark.parametrize("command", ["tasks list", "tasks show", "tasks cancel", "tasks follow", "queue drain"])
def test_so_does_the_help_of_a_command_within_a_command(shell: Shell, command: str) -> None:
    said = shell(*command.split(), "--help")
    assert said.code == 0
    assert f"{command.split()[1]}: " in said.out
    assert "--json" in said.out


WRONG_USAGE = [
    "tasks",
    "tasks lost",
    "tasks show",
    "tasks list --lost",
    "tasks list --status lost",
    "tasks list --since yesterday",
    "tasks list --since 0001-01-01T00:00+14:00",
    "tasks list --since 9999-12-31T23:59-14:00",
    "tasks list --limit 0",
    "tasks list --limit 2147483648",
    "tasks list --limit 99999999999999999999",
    "tasks cancel",
    "tasks cancel --all-pending one",
    "queue",
    "queue drain --timeout soon",
    "purge_tasks --older-than 7",
    "purge_tasks --older-than 999999999d",
    "init_check one",
    "predict iris",
    "predict iris --inputs {} --inputs-file -",
    "predict iris --inputs {} --wait",
    "predict iris --inputs {} --async --stream",
]


@pytest.mark.parametrize("line", WRONG_USAGE)
def test_wrong_usage_ends_with_2_and_changes_nothing(shell: Shell, line: str) -> None:
    said = shell(*line.split())
    assert (said.code, said.out) == (2, "")
    assert said.err
    assert not Task.objects.exists()


@pytest.mark.parametrize("line", WRONG_USAGE)
def test_with_json_wrong_usage_is_a_document_too(shell: Shell, line: str) -> None:
    command, *arguments = line.split()
    for said in (shell(command, "--json", *arguments), shell(command, *arguments, "--json")):
        assert (said.code, said.json["code"]) == (2, "invalid_request")
        assert said.json["error"] in said.err
        assert list(said.json) == ["error", "code"]


def test_with_json_the_usage_stays_on_stderr(shell: Shell) -> None:
    said = shell("tasks", "list", "--limit", "0", "--json")
    assert said.json["error"] == "argument --limit: '0' is not a whole number from 1 to 2147483647"
    assert said.err.startswith("usage: manage.py tasks list ")


def test_a_list_takes_the_largest_limit(shell: Shell) -> None:
    task("succeeded", 5)
    assert len(shell("tasks", "list", "--limit", "2147483647", "--json").json["tasks"]) == 1


@pytest.mark.parametrize(
    "line",
    [
        "init_check",
        "sweep_archive",
        "queue size",
        "queue pause",
        "queue delete-waiting",
        "predict m --inputs {} --async",
    ],
)
def test_while_redis_is_away_a_command_says_so_and_ends_with_1(shell: Shell, redis_proxy: Proxy, line: str) -> None:
    redis_proxy.cut()
    for arguments in (line.split(), [*line.split(), "--json"]):
        said = shell(*arguments)
        assert said.code == 1
        assert "Redis does not answer (" in said.err
        assert "Traceback" not in said.err
    assert said.json["code"] == "unavailable"


@pytest.mark.parametrize(
    "line",
    ["init_check", "purge_tasks", "tasks list", f"tasks show {NOWHERE}", f"tasks cancel {NOWHERE}", "tasks follow"],
)
def test_while_the_database_is_away_a_command_says_so_and_ends_with_1(
    shell: Shell, no_database: None, line: str
) -> None:
    said = shell(*line.split(), "--json")
    assert said.code == 1
    assert "database did not answer (" in said.err
    assert "Traceback" not in said.err
    assert said.json["code"] == "unavailable"


def test_ctrl_c_ends_a_command_without_a_traceback(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    def take_long(**options: Any) -> None:
        begun.set()
        time.sleep(60)

    monkeypatch.setattr(maintenance, "init_check", take_long)
    said = shell("init_check", ctrl_c=begun.is_set)
    assert (said.code, said.out, said.err.strip()) == (130, "", "Interrupted.")


# --- the checks and the purge


def test_the_checks_answer_json(shell: Shell) -> None:
    task("running", 400)
    task("pending", 5)
    nothing = {"failed": 0, "enqueued_again": 0, "reported": 0, "left": 0, "purged": 0}
    assert shell("init_check", "--json").json == {"dry_run": False, **nothing, "failed": 1, "enqueued_again": 1}
    assert shell("sweep_archive", "--json").json == {"dry_run": False, **nothing}
    assert shell("purge_tasks", "--json").json == {"dry_run": False, **nothing}


def test_a_dry_run_counts_and_changes_nothing(shell: Shell) -> None:
    task("running", 400)
    task("pending", 5)
    task("succeeded", 9e5, ended_at=now() - timedelta(days=8), unreported=True)
    get_redis().zadd(f"{RQ_KEY_PREFIX}:failed:default", {task("running", 5).pk: 9e12})
    task("failed", 9e5, ended_at=now() - timedelta(days=8))
    before = list(Task.objects.order_by("pk").values())
    assert shell("init_check", "--dry-run").out == (
        "Init check would do: 1 failed, 1 enqueued again, 1 reported, 1 left.\n"
    )
    assert shell("sweep_archive", "--dry-run").out == "Archive sweep would do: 1 failed.\n"
    assert shell("purge_tasks", "--dry-run").out == "Purge would do: 1 purged.\n"
    assert list(Task.objects.order_by("pk").values()) == before
    assert (queue.sizes().waiting, len(queue.archived_ids())) == (0, 1)


def test_the_purge_takes_an_age(shell: Shell) -> None:
    for hours in (1, 3, 5):
        task("succeeded", 9e5, ended_at=now() - timedelta(hours=hours))
    assert shell("purge_tasks", "--older-than", "4h").out == "Purge: 1 purged.\n"
    assert shell("purge_tasks", "--older-than", "120m", "--dry-run").out == "Purge would do: 1 purged.\n"
    assert Task.objects.count() == 2


def test_progress_is_printed_on_stderr_on_request(shell: Shell) -> None:
    for _ in range(3):
        task("running", 400)
    quiet, told = shell("init_check", "--dry-run"), shell("init_check", "--dry-run", "--progress", "--json")
    assert (quiet.err, told.err) == ("", "0 of 3 …\n")
    assert told.json["failed"] == 3


# --- the queue


def test_queue_size(shell: Shell, client: APIClient) -> None:
    submit(client)
    get_redis().zadd(f"{RQ_KEY_PREFIX}:wip:default", {"a:b": 9e12})
    assert shell("queue", "size").out == "1 of 30 wait, 1 of 0 slots run.\n"
    assert shell("queue", "size", "--json").json == {
        "waiting": 1,
        "running": 1,
        "max": 30,
        "paused_by": None,
        "workers": 0,
        "slots": 0,
    }


def test_a_queue_is_paused_and_resumed(shell: Shell, client: APIClient, work: Callable[..., Any]) -> None:
    assert shell("queue", "pause", "--json").json == {"paused": True}
    submit(client)
    assert "(manage.py)" in shell("queue", "size").out
    assert shell("queue", "size", "--json").json["paused_by"].endswith("(manage.py)")
    assert shell("queue", "resume", "--json").json == {"paused": False}
    work()
    assert Task.objects.get().status == "succeeded"


def test_waiting_tasks_are_canceled_after_a_confirmation(shell: Shell, client: APIClient) -> None:
    for _ in range(3):
        submit(client)
    refused = shell("queue", "delete-waiting", stdin="n\n", terminal=True)
    assert (refused.code, refused.out) == (0, "")
    assert "Cancel all of the 3 waiting tasks? [y/N]" in refused.err
    assert queue.sizes().waiting == 3
    assert shell("queue", "delete-waiting", stdin="y\n", terminal=True).out == "3 of 3 waiting tasks canceled.\n"
    assert {row.status for row in Task.objects.all()} == {"canceled"}


@pytest.mark.parametrize("line", ["queue delete-waiting", "tasks cancel --all-pending"])
def test_without_a_terminal_a_confirmation_needs_yes(shell: Shell, client: APIClient, line: str) -> None:
    submit(client)
    refused = shell(*line.split(), "--json")
    assert (refused.code, "--yes" in refused.err) == (2, True)
    assert queue.sizes().waiting == 1
    assert shell(*line.split(), "--yes", "--json").json == {"waiting": 1, "canceled": 1}


def test_drain_waits_until_nothing_waits_or_runs(shell: Shell, client: APIClient) -> None:
    waiting, running = task("pending", 5), task("running", 5)
    task("running", 5, agent="other")

    def end_them() -> bool:
        move(running, "succeeded")
        time.sleep(0.1)
        move(waiting, "succeeded")
        return False

    said = shell("queue", "drain", "--json", ctrl_c=end_them)
    assert (said.code, said.json["waiting"], said.json["running"]) == (0, 0, 0)
    assert not Task.objects.filter(agent="default").unfinished().exists()


def test_drain_running_leaves_waiting_tasks(shell: Shell) -> None:
    task("pending", 5)
    shell("queue", "pause")
    assert shell("queue", "drain", "--running").out == "Nothing runs.\n"


def test_the_upgrading_pages_commands_move_waiting_tasks_to_another_redis(
    shell: Shell, client: APIClient, work: Callable[..., Any]
) -> None:
    """The new Redis is empty and not paused; the init check queues the pending tasks there."""
    task_id = submit(client)
    (commands,) = re.findall(r"^python manage\.py (queue pause .*)$", UPGRADING, re.MULTILINE)
    for command in commands.split(" && python manage.py "):
        assert shell(*command.split()).code == 0
    assert queue.paused()
    get_redis().flushall()
    assert shell("init_check").out == "Init check: 1 enqueued again.\n"
    work()
    assert Task.objects.get(pk=task_id).status == "succeeded"


def test_a_paused_queue_does_not_drain(shell: Shell) -> None:
    task("pending", 5)
    shell("queue", "pause")
    said = shell("queue", "drain")
    assert (said.code, "queue resume" in said.err) == (2, True)


def test_drain_gives_up_after_its_time(shell: Shell) -> None:
    task("running", 5)
    said = shell("queue", "drain", "--timeout", "0.1s", "--json")
    assert (said.code, said.json["code"]) == (1, "timeout")
    assert "0 wait, 1 run" in said.err


def test_ctrl_c_ends_drain(shell: Shell) -> None:
    task("running", 5)
    assert shell("queue", "drain", ctrl_c=listens).code == 130
