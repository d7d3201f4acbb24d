"""InitCheck and archive sweep in several processes at the same moment."""

import re
import subprocess
import sys
from collections import Counter
from datetime import timedelta

import pytest
from django.utils.timezone import now
from rq.defaults import RQ_KEY_PREFIX

from predictions.models import Task
from predictions.queue import queue
from predictions.redis.connections import get_redis
from tests.helpers.servers import ROOT, environment_of

pytestmark = pytest.mark.slow

ROWS = 300
PROCESSES = 3
SCRIPT = """
import sys, django
django.setup()
from predictions.operations import maintenance
print("ready", flush=True)
sys.stdin.readline()
print(maintenance.{function}(), flush=True)
"""


def at_once(*functions: str) -> list[Counter[str]]:
    """Runs the functions in processes of their own, from one moment on; their summaries, word → count."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT.format(function=function)],
            cwd=ROOT,
            env=environment_of(DJANGO_SETTINGS_MODULE="config.settings", LOG_LEVEL="ERROR"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for function in functions
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return [Counter({word: int(count) for count, word in re.findall(r"(\d+) ([a-z ]+)", line)}) for line in said]


def lost(status: str, age: float) -> list[str]:
    """Tasks on which nothing works."""
    moment = now() - timedelta(seconds=age)
    tasks = [
        Task(agent="default", model_name="m", inputs={}, status=status, created_at=moment, started_at=moment)
        for _ in range(ROWS)
    ]
    Task.objects.bulk_create(tasks)
    return [task.pk for task in tasks]


def test_each_task_is_settled_once_however_many_look_for_it() -> None:
    old = lost("pending", 200_000) + lost("running", 4000)
    waiting = lost("pending", 4000)
    archived = lost("running", 20)
    get_redis().zadd(f"{RQ_KEY_PREFIX}:failed:default", dict.fromkeys(archived, 9e12))
    said = sum(at_once(*["init_check", "sweep_archive"] * PROCESSES), Counter())
    assert (said["failed"], said["enqueued again"]) == (len(old) + len(archived), len(waiting))
    assert sorted(queue.waiting_ids()) == sorted(waiting)
    assert queue.archived_ids() == []
    reasons = Counter(Task.objects.filter(status="failed").values_list("error_info", flat=True))
    assert reasons == {
        "the task was lost: nothing worked on it any more": len(old),
        "failed due to system errors": len(archived),
    }
    before = list(Task.objects.order_by("pk").values())
    assert at_once(*["init_check", "sweep_archive"] * PROCESSES) == [Counter()] * 2 * PROCESSES
    assert list(Task.objects.order_by("pk").values()) == before
