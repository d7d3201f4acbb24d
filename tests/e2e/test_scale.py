"""A million tasks cost the same as a thousand: the same queries, each of which reads a few rows of an index."""

import statistics
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from io import StringIO
from typing import Any

import psycopg
import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils.timezone import now
from rq.defaults import RQ_KEY_PREFIX

from predictions import jobs
from predictions.models import Task, Upload
from predictions.operations import maintenance
from predictions.redis.connections import get_redis
from tests.e2e.databases import Postgres
from tests.e2e.faults import Crowd
from tests.e2e.filled import add, as_default, fill, new_database
from tests.e2e.plans import Plan, plan
from tests.e2e.watch import LockWaits
from tests.helpers.servers import Server

pytestmark = pytest.mark.slow

FEW, MANY = 1_000, 1_000_000
ROUNDS = 7
READ_AT_MOST = 10_000
"""Rows that one statement may look at, of a million."""
LIST = "/admin/predictions/task/"
IRIS: dict[str, Any] = {"model_name": "model-1", "inputs": {"x": 1}}

Path = Callable[[Client], object]


@pytest.fixture(scope="module")
def databases() -> Iterator[dict[int, str]]:
    """Number of tasks → where they are."""
    server = Postgres()
    try:
        urls = {rows: new_database(server.url) for rows in (FEW, MANY)}
        for rows, url in urls.items():
            began = time.monotonic()
            fill(url, rows)
            print(f"\n{rows:,} tasks filled in {time.monotonic() - began:.1f} s")
        yield urls
    finally:
        server.close()


def a_task() -> Task:
    """One from the middle of the day."""
    return Task.objects.filter(created_at__lt=now() - timedelta(hours=12)).order_by("-created_at")[0]


def page(**query: Callable[[], object] | str) -> Path:
    return lambda client: client.get(LIST, {name: at() if callable(at) else at for name, at in query.items()})


def records(**query: str) -> Path:
    return lambda client: client.get("/task/modelstatus", query, headers={"apikey": "record-key"})


def day(part: str) -> Callable[[], object]:
    return lambda: getattr(now() - timedelta(hours=12), part)


def command(*words: str) -> Path:
    return lambda client: call_command(*words, stdout=StringIO())


PATHS: dict[str, Path] = {
    "GET /task/{id}": lambda client: client.get(f"/task/{a_task().pk}"),
    "POST /v1/predict while 20 run": lambda client: client.post("/v1/predict", IRIS, "application/json"),
    "POST /async/v1/predict": lambda client: client.post("/async/v1/predict", IRIS, "application/json"),
    "GET /task/modelstatus": records(model_name="retired", status="succeeded"),
    "GET /task/modelstatus of last night (of few: 7)": records(model_name="nightly", status="failed"),
    "GET /metrics": lambda client: client.get("/metrics"),
    "dashboard": lambda client: client.get("/admin/"),
    "dashboard's numbers": lambda client: client.get("/admin/agent/numbers"),
    "dashboard's charts": lambda client: client.get("/admin/agent/charts"),
    "task's page": lambda client: client.get(f"{LIST}{a_task().pk}/change/"),
    "task list": page(),
    "list, oldest first": page(o="6"),
    "list, page 10": page(p="10"),
    "list, page 100 (of few: empty)": page(p="100"),
    "list, sorted by run time (refused)": page(o="7"),
    "list: status": page(status__exact="failed"),
    "list: busy model": page(model_name="model-0"),
    "list: model of long ago": page(model_name="retired"),
    "list: model of last night": page(model_name="nightly"),
    "list: user of last night": page(user_id="batch"),
    "list: model of last night and status": page(model_name="nightly", status__exact="succeeded"),
    "list: model of last night, oldest first": page(model_name="nightly", o="6"),
    "list: model and status": page(model_name="model-0", status__exact="succeeded"),
    "list: platform": page(platform="kserve"),
    "list: platform of long ago": page(platform="replicate"),
    "list: busy user": page(user_id="user-0"),
    "list: user of long ago": page(user_id="gone"),
    "list: user and status": page(user_id="user-0", status__exact="succeeded"),
    "list: a day": page(created_at__year=day("year"), created_at__month=day("month"), created_at__day=day("day")),
    "search: beginning of an id": page(q=lambda: a_task().pk[:8]),
    "search: request": page(q=lambda: a_task().request_id),
    "search: busy user": page(q="user-0"),
    "search: user of long ago": page(q="gone"),
    "search: model": page(q="model-0"),
    "search: model of last night": page(q="nightly"),
    "search: nothing": page(q="nothing-of-that-name"),
    "tasks list": command("tasks", "list", "--status", "succeeded", "--model", "nightly"),
    "init check, 20 lost": command("init_check"),
    "archive sweep, 20 archived": command("sweep_archive"),
    "purge, 2,500 old": command("purge_tasks"),
}


def prepare(name: str, url: str) -> None:
    """What only some paths need, and is not measured."""
    get_redis().flushall()
    cache.clear()
    if name.startswith(("init check", "archive sweep", "POST /v1/predict")):
        Task.objects.unfinished().delete()
        long_ago = now() - timedelta(days=1)
        lost = [Task(agent="default", model_name="m", status="running", created_at=long_ago) for _ in range(20)]
        Task.objects.bulk_create(lost)
        if name.startswith("archive"):
            get_redis().zadd(f"{RQ_KEY_PREFIX}:failed:default", {task.pk: 9e12 for task in lost})
    if name.startswith("purge"):
        with psycopg.connect(url, autocommit=True) as server:
            add(server, 2500, ago=timedelta(days=3))


@pytest.mark.parametrize("name", PATHS)
def test_a_million_tasks_cost_the_same_as_a_thousand(databases: dict[int, str], name: str) -> None:
    queries: dict[int, list[str]] = {}
    seconds: dict[int, list[float]] = {FEW: [], MANY: []}
    clients = {rows: operator(url) for rows, url in databases.items()}
    for _ in range(ROUNDS):
        for rows, url in databases.items():
            with as_default(url):
                jobs.count_ended()  # as every minute
                prepare(name, url)
                with CaptureQueriesContext(connection) as asked:
                    began = time.perf_counter()
                    answer = PATHS[name](clients[rows])
                    seconds[rows].append(time.perf_counter() - began)
                queries[rows] = [query["sql"] for query in asked]
            assert getattr(answer, "status_code", 200) == 200
    with as_default(databases[MANY]):
        plans = [plan(sql) for sql in queries[MANY] if "predictions_" in sql and not sql.startswith("INSERT")]
    tell(name, queries, seconds, plans)
    assert len(queries[MANY]) == len(queries[FEW])
    for one in plans:
        assert "predictions_task" not in one.whole_tables, one
        assert one.rows_read <= (1 if one.statement.startswith("UPDATE") else READ_AT_MOST), one


def test_submissions_go_on_while_many_tasks_are_purged(databases: dict[int, str], serve: Callable[..., Server]) -> None:
    web = serve("web", DATABASE_URL=databases[MANY], MAX_QUEUE_SIZE="1000000")
    batches: list[int] = []
    with as_default(databases[MANY]):
        names = [keep_file(task) for task in Task.objects.order_by("created_at")[:20]]
        with Crowd(web.url, pause_seconds=0) as crowd, LockWaits(databases[MANY]) as waits:
            crowd.wait_for(200)
            before, began = len(crowd.accepted), time.monotonic()
            with CaptureQueriesContext(connection) as asked:
                summary = maintenance.purge_tasks(
                    timedelta(hours=23), on_progress=lambda done, _: batches.append(done - sum(batches))
                )
            took, during = time.monotonic() - began, len(crowd.accepted) - before
            commits = [query["sql"] for query in asked].count("COMMIT")
        found = set(Task.objects.filter(pk__in=crowd.accepted.values()).values_list("pk", flat=True))
        left = Task.objects.ended().filter(ended_at__lt=now() - timedelta(hours=23, minutes=1)).count()
    print(f"\n{summary} in {took:.1f} s, meanwhile {during} submissions ({during / took:.0f} a second)")
    assert summary.purged >= 30_000
    assert left == 0
    assert max(batches) <= maintenance.PURGE_BATCH
    assert commits >= summary.purged / maintenance.PURGE_BATCH
    assert during > 100
    assert crowd.refused == {}
    assert set(crowd.accepted.values()) == found
    assert waits.seen == []
    assert not any(default_storage.exists(name) for name in names)


def keep_file(task: Task) -> str:
    name = default_storage.save(f"uploads/{task.pk}.txt", ContentFile(b"what a model made"))
    Upload.objects.create(task=task, name=name, size=17)
    return name


def operator(url: str) -> Client:
    client = Client()
    with as_default(url):
        client.force_login(User.objects.get_or_create(username="op", is_superuser=True, is_staff=True)[0])
    return client


def tell(name: str, queries: dict[int, list[str]], seconds: dict[int, list[float]], plans: list[Plan]) -> None:
    few, many = (1000 * statistics.median(seconds[rows]) for rows in (FEW, MANY))
    counts = " / ".join(str(len(queries[rows])) for rows in (FEW, MANY))
    how = "; ".join(dict.fromkeys(f"{', '.join(one.scans)} ({one.rows_read:,} rows)" for one in plans))
    print(f"\n| {name} | {counts} | {few:.1f} | {many:.1f} | {many / few:.2f} | {how} |")
