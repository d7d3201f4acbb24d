"""How many queries each way through the agent costs, with one task as with hundreds."""

from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils.timezone import now
from rq.defaults import RQ_KEY_PREFIX

from predictions.models import Task
from predictions.redis.connections import get_redis

LIST = "/admin/predictions/task/"
IRIS: dict[str, Any] = {"model_name": "iris", "inputs": {}}
WAYS: dict[str, tuple[Callable[[Client, dict[str, str]], Any], int]] = {
    "a task": (lambda browser, ids: browser.get(f"/task/{ids['succeeded']}"), 1),
    "a sync prediction": (lambda browser, ids: browser.post("/v1/predict", IRIS, "application/json"), 2),
    "a submission": (lambda browser, ids: browser.post("/async/v1/predict", IRIS, "application/json"), 1),
    "a cancel": (lambda browser, ids: browser.post(f"/cancel/{ids['pending']}"), 2),
    "metrics": (lambda browser, ids: browser.get("/metrics"), 1),
    "the dashboard": (lambda browser, ids: browser.get("/admin/"), 7),
    "its numbers": (lambda browser, ids: browser.get("/admin/agent/numbers"), 6),
    "its charts": (lambda browser, ids: browser.get("/admin/agent/charts"), 4),
    "the task list": (lambda browser, ids: browser.get(LIST), 4),
    "its second page": (lambda browser, ids: browser.get(LIST, {"p": "2"}), 4),
    "a filtered list": (lambda browser, ids: browser.get(LIST, {"status__exact": "failed", "model_name": "iris"}), 4),
    "a search": (lambda browser, ids: browser.get(LIST, {"q": "iris"}), 4 + 4),
    "an init check": (lambda browser, ids: call_command("init_check", stdout=StringIO()), 3 + 4),
    "an archive sweep": (lambda browser, ids: call_command("sweep_archive", stdout=StringIO()), 2 * 3),
    "a purge": (lambda browser, ids: call_command("purge_tasks", stdout=StringIO()), 5 + 2),
}
"""Name → a call with the ids of tasks in several states, and its number of queries."""


def rows(status: str, count: int, age: timedelta) -> list[str]:
    moment = now() - age
    known = {"agent": "default", "model_name": "iris", "platform": "local", "status": status, "created_at": moment}
    ended = {} if status in ("pending", "running") else {"ended_at": moment + timedelta(seconds=1)}
    return [row.pk for row in Task.objects.bulk_create(Task(**known, **ended) for _ in range(count))]


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("others", [0, 300])
def test_a_way_costs_so_many_queries_however_many_tasks_there_are(name: str, others: int) -> None:
    """Four tasks are lost, three are archived, five are old."""
    for status in ("succeeded", "failed", "canceled"):
        rows(status, others, timedelta(minutes=10))
    ids = {status: rows(status, 1, timedelta(minutes=1))[0] for status in ("pending", "succeeded")}
    get_redis().zadd(f"{RQ_KEY_PREFIX}:wip:default", {f"{ids['pending']}:run": 9e12})
    rows("running", 4, timedelta(days=1))
    archived = rows("running", 3, timedelta())
    get_redis().zadd(f"{RQ_KEY_PREFIX}:failed:default", dict.fromkeys(archived, 9e12))
    rows("succeeded", 5, timedelta(days=7))
    browser = Client()
    browser.force_login(User.objects.create_superuser("op"))
    cache.clear()
    act, cost = WAYS[name]
    with CaptureQueriesContext(connection) as queries:
        act(browser, ids)
    told = [query["sql"] for query in queries if query["sql"].split()[0] in ("SELECT", "INSERT", "UPDATE", "DELETE")]
    assert len(told) == cost, "\n".join(told)
