"""InitCheck, archive sweep and purge."""

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.management import CommandError
from django.db import OperationalError, connection, connections
from django.utils.timezone import now
from rest_framework.test import APIClient
from rq.cron_scheduler_registry import get_registry_key
from rq.defaults import RQ_KEY_PREFIX
from rq.job import Job

from config.settings import PLATFORMS
from predictions import jobs
from predictions.models import Task
from predictions.operations import maintenance
from predictions.queue import queue
from predictions.queue.scheduler import Scheduler, enqueue_once
from predictions.redis.connections import get_redis
from tests.helpers import predictors
from tests.helpers.api import submit
from tests.helpers.factories import task
from tests.helpers.proxy import Proxy
from tests.helpers.stub import Stub, answers, closed_port
from tests.helpers.workers import new_worker
from tests.predictions.commands import Shell, run


def statuses() -> dict[str, str]:
    return dict(Task.objects.values_list("pk", "status"))


HOUR = 3600.0
TOO_OLD_TO_WAIT = 49 * HOUR
"""Seconds; TASK_RETENTION is 48 hours."""


def test_init_check_settles_lost_tasks(work: Callable[..., Any]) -> None:
    old_running, forgotten = task("running", 400), task("pending", TOO_OLD_TO_WAIT)
    young_running = task("running", 10)
    other_agent = task("running", 9999, agent="other")
    reported = task("running", 9999, agent="")
    assert run("init_check") == "Init check: 2 failed, 1 left.\n"
    for lost in (old_running, forgotten):
        lost.refresh_from_db()
        assert (lost.status, lost.error_info) == ("failed", "the task was lost: nothing worked on it any more")
    assert queue.waiting_ids() == []
    work()
    assert {statuses()[row.pk] for row in (young_running, other_agent, reported)} == {"running"}


def test_init_check_queues_a_waiting_task_again_however_long_it_has_waited(work: Callable[..., Any]) -> None:
    """It never ran: TASK_TIMEOUT (320 s) is about tasks that run."""
    waiting = [task("pending", age) for age in (10, 400, HOUR, 47 * HOUR)]
    assert run("init_check") == "Init check: 4 enqueued again.\n"
    work()
    assert statuses() == {row.pk: "succeeded" for row in waiting}


@pytest.mark.parametrize("platform", ["replicate", "runpod"])
def test_init_check_cancels_the_platforms_job_of_a_prediction_whose_web_process_was_lost(
    configured: Callable[..., None], platform: str
) -> None:
    """And records the outcome, so a second check sends no cancel. A job without a recorded id runs on."""
    stub = Stub()
    job = {"id": "up-1", "status": {"replicate": "canceled", "runpod": "CANCELLED"}[platform]}
    for route in ("POST /v1/predictions/up-1/cancel", "POST /v2/e/cancel/up-1"):
        stub.script(route, answers(job))
    platforms = {
        "replicate": {"address": f"{stub.url}/v1/predictions", "api_key": "k", "model": "m", "timeout_seconds": 5.0},
        "runpod": {"address": f"{stub.url}/v2", "api_key": "k", "endpoint": "e", "timeout_seconds": 5.0},
    }
    class_name = PLATFORMS[platform][0]
    configured(ML_PLATFORM=platform, PLATFORMS={platform: (class_name, platforms[platform])})
    noted, unnoted = (
        task("running", 400, platform=platform, upstream_id="up-1"),
        task("running", 400, platform=platform),
    )
    assert run("init_check") == "Init check: 2 failed.\n"
    for lost, note in ((noted, "canceled"), (unnoted, "")):
        lost.refresh_from_db()
        assert (lost.status, lost.upstream_cancel) == ("failed", note)
    run("init_check")
    assert len(stub.received) == 1
    stub.close()


def test_init_check_does_not_wait_long_for_a_platform_that_does_not_answer(configured: Callable[..., None]) -> None:
    arguments = {
        "address": f"http://127.0.0.1:{closed_port()}",
        "api_key": "k",
        "endpoint": "e",
        "timeout_seconds": 5.0,
    }
    configured(ML_PLATFORM="runpod", PLATFORMS={"runpod": ("platforms.runpod.RunPod", arguments)})
    for number in range(6):
        task("running", 400, platform="runpod", upstream_id=f"up-{number}")
    assert run("init_check") == "Init check: 6 failed.\n"
    notes = list(Task.objects.order_by("upstream_id").values_list("upstream_cancel", flat=True))
    assert notes == ["no answer"] * 3 + ["not asked: the platform does not answer"] * 3


def test_init_check_leaves_tasks_with_a_job(client: APIClient) -> None:
    waiting = submit(client)
    running = task("running", 9999)
    get_redis().zadd(f"{RQ_KEY_PREFIX}:wip:default", {f"{running.pk}:run": 9e12})
    Task.objects.filter(pk=waiting).update(created_at=now() - timedelta(days=1))
    assert run("init_check") == "Init check: nothing to do.\n"
    assert statuses() == {waiting: "pending", running.pk: "running"}


def test_init_check_leaves_a_prediction_that_began_a_moment_ago_by_another_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its row looks an hour old, and its process has not yet said that it holds it."""
    begun, lost = task("running", HOUR), task("running", HOUR)
    process_says = SimpleNamespace(sleep=lambda seconds: queue.look(0, holds=[begun.pk], released=[]))
    monkeypatch.setattr(maintenance, "time", process_says)
    assert run("init_check") == "Init check: 1 failed.\n"
    assert statuses() == {begun.pk: "running", lost.pk: "failed"}


def test_accepted_tasks_that_redis_lost_are_queued_again_and_run_once(
    client: APIClient, work: Callable[..., Any]
) -> None:
    done = submit(client, {"n": 0})
    work()
    lost = [submit(client, {"n": number}) for number in (1, 2, 3)]
    get_redis().flushall()
    work()
    assert [statuses()[task_id] for task_id in lost] == ["pending"] * 3
    queue.enqueue(done)  # a failover may bring it back, if Redis lost its end
    assert run("init_check") == "Init check: 3 enqueued again.\n"
    work()
    assert statuses() == dict.fromkeys([done, *lost], "succeeded")
    assert sorted(call["n"] for call in predictors.calls) == [0, 1, 2, 3]


def test_a_second_init_check_changes_nothing_more(client: APIClient) -> None:
    task("pending", TOO_OLD_TO_WAIT)
    task("pending", 5)
    run("init_check")
    before = list(Task.objects.order_by("pk").values())
    assert run("init_check") == "Init check: nothing to do.\n"
    assert list(Task.objects.order_by("pk").values()) == before
    assert queue.sizes().waiting == 1


def test_two_init_checks_at_once_do_each_thing_once(client: APIClient) -> None:
    for _ in range(20):
        task("running", 400)
        task("pending", 5)
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(run, "init_check") for _ in range(2)]:
            future.result()
        for _ in range(4):
            pool.submit(connections.close_all)
    assert sorted(statuses().values()) == ["failed"] * 20 + ["pending"] * 20
    assert queue.sizes().waiting == 20


def test_init_check_is_for_its_model_alone_where_one_is_set(configured: Callable[..., None]) -> None:
    configured(MODEL_NAME="iris")
    mine, other = task("running", 400), task("running", 400, model_name="wine")
    run("init_check")
    assert statuses() == {mine.pk: "failed", other.pk: "running"}


def test_init_check_changes_nothing_while_redis_is_away(redis_proxy: Proxy) -> None:
    task("running", 400)
    redis_proxy.cut()
    with pytest.raises(CommandError, match="Redis does not answer"):
        run("init_check")
    assert set(statuses().values()) == {"running"}


def test_the_sweep_fails_what_rq_gave_up(client: APIClient, work: Callable[..., Any]) -> None:
    task_id = submit(client)
    get_redis().hset(Job.key_for(task_id), "data", _payload_that_raises())
    work()
    assert queue.archived_ids() == [task_id]
    assert statuses() == {task_id: "pending"}
    assert run("sweep_archive") == "Archive sweep: 1 failed.\n"
    assert Task.objects.get().error_info == "failed due to system errors"
    assert statuses() == {task_id: "failed"}
    assert queue.archived_ids() == []
    assert not get_redis().exists(Job.key_for(task_id))
    assert run("sweep_archive") == "Archive sweep: nothing to do.\n"


def _payload_that_raises() -> bytes:
    import json
    import zlib

    return zlib.compress(json.dumps(["predictions.jobs.run_prediction", None, [], {}]).encode())


def test_the_sweep_leaves_an_ended_task_as_it_is() -> None:
    done = task("succeeded", 5)
    get_redis().zadd(f"{RQ_KEY_PREFIX}:failed:default", {done.pk: 9e12})
    assert run("sweep_archive") == "Archive sweep: nothing to do.\n"
    assert statuses() == {done.pk: "succeeded"}
    assert queue.archived_ids() == []


def test_the_purge_deletes_what_ended_long_ago(configured: Callable[..., None]) -> None:
    kept = [task("pending", 9e5), task("running", 9e5), task("succeeded", 60, ended_at=now() - timedelta(hours=47))]
    for status in ("succeeded", "failed", "canceled"):
        task(status, 9e5, ended_at=now() - timedelta(hours=49))
    assert run("purge_tasks") == "Purge: 3 purged.\n"
    assert set(statuses()) == {row.pk for row in kept}


def test_the_scheduler_queues_each_job_once_however_many_run(work: Callable[..., Any]) -> None:
    old = task("running", 400)
    for _ in range(2):
        scheduler = Scheduler()
        scheduler.every(1800, jobs.init_check)
        scheduler.enqueue_jobs()
    assert get_redis().llen(f"{RQ_KEY_PREFIX}:queue:default-maintenance") == 1
    assert queue.sizes().waiting == 0
    work()
    assert statuses() == {old.pk: "failed"}
    assert predictors.calls == []


@pytest.mark.parametrize("name", ["init_check", "sweep_archive", "purge_tasks", "count_ended"])
def test_a_check_of_the_schedulers_that_meets_an_outage_leaves_no_failed_job(
    work: Callable[..., Any], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The next one comes when its interval is over; what failed would stand in a registry that no sweep looks at."""

    def no_database(*args: object) -> None:
        raise OperationalError("the server closed the connection")

    task("running", 400)
    get_redis().zadd(f"{RQ_KEY_PREFIX}:failed:default", {Task.objects.get().pk: 9e12})
    enqueue_once(getattr(jobs, name), turn_seconds=60)
    worker = new_worker()
    (run_of_it,), _ = worker._books.claim("default-maintenance", 1)
    with connection.execute_wrapper(no_database), caplog.at_level("WARNING"):
        worker._active.add(run_of_it)
        worker._perform(run_of_it)
    assert queue.failed_maintenance() == 0
    assert name == "sweep_archive" or "was not done, and is due again" in caplog.text
    work()
    assert statuses() == {Task.objects.get().pk: "running"}


def test_a_check_that_fails_for_another_reason_is_counted_until_it_lapses(
    work: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fall() -> None:
        raise RuntimeError("unexpected")

    monkeypatch.setattr(maintenance, "init_check", fall)
    enqueue_once(jobs.init_check, turn_seconds=60)
    work()
    assert queue.failed_maintenance() == 1
    run("sweep_archive")
    assert queue.failed_maintenance() == 1
    registry = f"{RQ_KEY_PREFIX}:failed:default-maintenance"
    (job_id,) = get_redis().zrange(registry, 0, -1)
    get_redis().zadd(registry, {job_id: 1})
    assert queue.failed_maintenance() == 0
    run("sweep_archive")
    assert not get_redis().exists(registry)


def test_a_check_that_release_0_1_queued_still_runs(work: Callable[..., Any]) -> None:
    old = task("running", 400)
    enqueue_once("predictions.maintenance.init_check_job", turn_seconds=60)
    work()
    assert statuses() == {old.pk: "failed"}


@pytest.fixture
def own_signals() -> Iterator[None]:
    """Gives this process its signal handlers back, which a scheduler keeps."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize("periodic_check", [True, False])
def test_the_scheduler_queues_the_checks_the_purge_and_the_counts_each_in_its_interval(
    shell: Shell, configured: Callable[..., None], periodic_check: bool
) -> None:
    """A job's id names the interval for which it is queued."""
    minutes = {"purge_tasks": 60, "count_ended": 1}
    if periodic_check:
        minutes |= {"init_check": 5, "sweep_archive": 30}
    configured(ENABLE_PERIODIC_CHECK=periodic_check)
    queued = f"{RQ_KEY_PREFIX}:queue:default-maintenance"
    began_at = time.time()
    shell("scheduler", ctrl_c=lambda: get_redis().llen(queued) >= len(minutes))
    ids = {job_id.decode() for job_id in get_redis().lrange(queued, 0, -1)}
    assert len(ids) == len(minutes)
    for name, interval in minutes.items():
        turns = {int(moment // (60 * interval)) for moment in (began_at, time.time())}
        assert ids & {f"default-maintenance-{name}-{turn}" for turn in turns}, name


@pytest.mark.usefixtures("own_signals")
def test_a_scheduler_ends_quietly_also_where_another_signed_off_for_both(shell: Shell) -> None:
    def sign_off() -> bool:
        return bool(
            get_redis().exists(f"{RQ_KEY_PREFIX}:queue:default-maintenance") and get_redis().delete(get_registry_key())
        )

    said = shell("scheduler", ctrl_c=sign_off)
    assert (said.code, "Traceback" in said.err) == (0, False)
