"""The admin's home: its figures, queries and buttons."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core.cache import cache
from django.db import connections
from django.test import Client
from django.utils.timezone import now
from rest_framework.test import APIClient

from predictions.models import EndedCount, Task
from predictions.operations import rollups, statistics
from predictions.queue import queue
from predictions.templatetags.agent import seconds
from tests.helpers.proxy import Proxy
from tests.helpers.workers import new_worker

IRIS: dict[str, Any] = {"model_name": "iris", "inputs": {}}


@pytest.fixture(autouse=True)
def _forgetful() -> Iterator[None]:
    cache.clear()
    yield
    cache.clear()


@pytest.fixture
def staff() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("operator"))
    return client


@pytest.fixture
def onlooker() -> Client:
    """Staff who may look at tasks, and do nothing."""
    user = User.objects.create_user("onlooker", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_task"))
    client = Client()
    client.force_login(user)
    return client


def ended(count: int, *, ago: float = 60, run: float = 1.0, wait: float = 2.0, **fields: Any) -> None:
    at = now() - timedelta(seconds=ago)
    started = at - timedelta(seconds=run)
    known = {"agent": "default", "model_name": "iris", "platform": "local", "status": "succeeded", **fields}
    times = {"ended_at": at, "started_at": started, "created_at": started - timedelta(seconds=wait)}
    Task.objects.bulk_create(Task(**known, **times, running_time=run) for _ in range(count))


def test_what_ended_is_counted_by_minute_and_by_hour() -> None:
    ended(3)
    ended(1, status="failed")
    ended(2, ago=7200, status="canceled")
    ended(5, ago=100_000)  # more than a day ago
    ended(5, agent="another")
    hour, day = statistics.ended_lately()
    assert (hour.total, hour.failed, hour.failed_percent, len(hour.starts)) == (4, 1, 25, 60)
    assert (day.total, day.failed, len(day.starts)) == (6, 1, 24)
    assert hour.counts["succeeded"].index(3) in (58, 59)
    assert day.counts["canceled"].index(2) in (20, 21, 22)


def test_minutes_that_are_over_are_counted_once_and_for_all() -> None:
    ended(3, ago=300)
    ended(1, ago=300, status="failed")
    ended(2, ago=5 * 3600)
    ended(4, ago=1)
    ended(5, ago=300, agent="another")
    untallied = statistics.ended_lately()
    for new in (3, 0):
        cache.clear()
        assert rollups.count_ended() == new
        assert statistics.ended_lately() == untallied
    Task.objects.all().delete()  # as a purge does
    cache.clear()
    hour, day = statistics.ended_lately()
    assert (hour.total, hour.failed, day.total) == (4, 1, 6)


def test_a_rollup_continues_from_the_last_one_and_drops_old_counts() -> None:
    ended(1, ago=3 * 3600)
    EndedCount.objects.create(agent="default", minute=now() - timedelta(days=3), status="failed", count=9)
    EndedCount.objects.create(agent="another", minute=now() - timedelta(days=3), status="failed", count=9)
    assert rollups.count_ended() == 1
    ended(2, ago=3600)
    ended(7, ago=4 * 3600)  # too late: that minute is over
    assert rollups.count_ended() == 1
    counts = EndedCount.objects.order_by("minute").values_list("agent", "count")
    assert list(counts) == [("another", 9), ("default", 1), ("default", 2)]


def test_several_tallies_at_once_count_nothing_twice() -> None:
    ended(50, ago=600)
    with ThreadPoolExecutor(4) as tallies:
        for count in [tallies.submit(_count) for _ in range(8)]:
            count.result()
    assert statistics.ended_lately()[0].total == 50


def _count() -> None:
    try:
        rollups.count_ended()
    finally:
        connections.close_all()


def test_percentiles_are_shown_for_each_model_and_platform() -> None:
    for number in range(1, 101):
        ended(1, run=number, wait=number / 10)
    ended(1, model_name="fox", platform="kserve", status="failed")
    iris, fox = statistics.by_model()
    assert (iris.model_name, iris.platform, iris.ended, iris.failed_percent) == ("iris", "local", 100, 0)
    assert iris.run_time.p50 == pytest.approx(50.5)
    assert iris.run_time.p90 == pytest.approx(90.1)
    assert iris.run_time.p99 == pytest.approx(99.01)
    assert iris.queue_time.p50 == pytest.approx(5.05)
    assert (fox.model_name, fox.failed_percent, fox.run_time.p99) == ("fox", 100, 1.0)


def test_percentiles_are_those_of_the_latest_2000_tasks() -> None:
    ended(2000, run=1.0)
    ended(500, run=60.0, ago=3600)
    (iris,) = statistics.by_model()
    assert (iris.ended, iris.run_time.p99) == (2000, 1.0)


def test_a_page_costs_the_same_however_many_tasks_there_are(
    staff: Client, django_assert_num_queries: Any, redis_proxy: Proxy
) -> None:
    staff.get("/admin/")
    for count in (1, 1000):
        ended(count)
        Task.objects.bulk_create(Task(agent="default", model_name="m") for _ in range(count))
        cache.clear()
        before = redis_proxy.requests
        with django_assert_num_queries(7):  # session, user; unfinished, tallied, ended since, models; history
            assert staff.get("/admin/").status_code == 200
        assert redis_proxy.requests - before == 1
        with django_assert_num_queries(3):  # what ended is remembered for half a minute
            assert staff.get("/admin/agent/numbers").status_code == 200


def test_the_page_shows_queue_tasks_workers_and_models(staff: Client, client: APIClient) -> None:
    ended(4, model_name="stable-diffusion")
    for _ in range(3):
        client.post("/async/v1/predict", IRIS, format="json")
    worker = new_worker()
    worker.register_birth()
    worker._supervisor.beat()
    page = staff.get("/admin/").content.decode()
    assert '<span id="waiting">3</span>' in page
    assert '<span id="workers">1</span>' in page
    assert '<span id="ended-hour">4</span>' in page
    assert "stable-diffusion" in page
    assert worker.name[:12] in page
    queue.get_redis().hset(worker.key, "beat_at", 1)
    assert "No worker is alive" in staff.get("/admin/agent/numbers").content.decode()
    assert staff.get("/admin/agent/charts").json()["hour"]["datasets"][0]["data"].count(4) == 1


def test_an_operator_pauses_resumes_and_deletes_and_the_history_keeps_who(staff: Client, client: APIClient) -> None:
    client.post("/async/v1/predict", IRIS, format="json")
    for act in ("pause", "resume", "pause", "delete-waiting"):
        assert staff.post(f"/admin/agent/queue/{act}").status_code == 302
    assert queue.paused()
    assert "paused (by operator)" in staff.get("/admin/agent/numbers").content.decode()
    assert Task.objects.get().status == "canceled"
    history = [(entry.user.username, entry.object_repr, entry.change_message) for entry in LogEntry.objects.all()]
    assert [(who, what) for who, what, _ in history] == [("operator", "Queue default")] * 4
    assert "Canceled 1 of 1 waiting tasks." in history[0][2]
    assert "Canceled 1 of 1" in staff.get("/admin/admin/logentry/").content.decode()


def test_read_only_staff_have_no_buttons_and_cannot_use_them(onlooker: Client) -> None:
    page = onlooker.get("/admin/").content.decode()
    assert "agent-ask" not in page
    assert onlooker.post("/admin/agent/queue/pause").status_code == 403
    assert not queue.paused()


def test_the_queue_cannot_be_changed_by_a_link_or_without_a_csrf_token(staff: Client) -> None:
    assert staff.get("/admin/agent/queue/pause").status_code == 405
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = staff.cookies
    assert strict.post("/admin/agent/queue/pause").status_code == 403
    assert Client().post("/admin/agent/queue/pause").headers["Location"].startswith("/admin/login/")
    assert staff.post("/admin/agent/queue/explode").status_code == 404
    assert not queue.paused()


def test_the_page_says_that_redis_does_not_answer(
    staff: Client, redis_proxy: Proxy, configured: Callable[..., None]
) -> None:
    redis_proxy.cut()
    assert "Redis does not answer" in staff.get("/admin/").content.decode()
    page = staff.post("/admin/agent/queue/pause", follow=True).content.decode()
    assert "nothing was changed" in page
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        ("", "–"),
        (0, "0 s"),
        (0.0146, "0.015 s"),
        (12.34, "12.3 s"),
        (250, "4 min 10 s"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations_are_worded_for_people(value: float | str | None, text: str) -> None:
    assert seconds(value) == text


def test_the_health_card_says_what_doctor_says_and_looks_once_for_many(staff: Client, redis_proxy: Proxy) -> None:
    assert "agent-health" in staff.get("/admin/").content.decode()
    page = staff.get("/admin/agent/health").content.decode()
    for part in ("Database", "Redis", "Workers", "Platform", "Storage"):
        assert part in page
    before = redis_proxy.requests
    assert staff.get("/admin/agent/health").content.decode() == page
    assert redis_proxy.requests == before
    cache.clear()
    redis_proxy.cut()
    assert "problem" in staff.get("/admin/agent/health").content.decode()
