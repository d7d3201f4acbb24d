"""InitCheck, archive sweep and purge."""

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from django.utils.timezone import now
from rest_framework.test import APIClient
from rq.cron_scheduler_registry import get_registry_key
from rq.defaults import RQ_KEY_PREFIX
from rq.job import Job

from predictions import jobs
from predictions.models import Task
from predictions.queue import queue
from predictions.queue.connections import get_redis
from tests import predictors
from tests.predictions.commands import Shell
from tests.predictions.test_async import submit
from tests.proxy import Proxy


def run(command: str) -> str:
    out = StringIO()
    call_command(command, stdout=out)
    return out.getvalue()


def task(status: str, age: float, **fields: Any) -> Task:
    """A task of this agent that nothing works on, submitted `age` seconds ago."""
    moment = now() - timedelta(seconds=age)
    started = None if status == "pending" else moment
    fields = {"agent": "default", "model_name": "iris", "platform": "local", "inputs": {}, **fields}
    return Task.objects.create(status=status, created_at=moment, started_at=started, **fields)


def statuses() -> dict[str, str]:
    return dict(Task.objects.values_list("pk", "status"))


def test_init_check_settles_what_nothing_works_on(work: Callable[..., Any]) -> None:
    old = [task("pending", 400), task("running", 400)]
    young_running = task("running", 10)
    young_pending = task("pending", 10)
    other_agent = task("running", 9999, agent="other")
    reported = task("running", 9999, agent="")
    assert run("init_check") == "Init check: 2 failed, 1 enqueued again, 1 left.\n"
    assert {statuses()[lost.pk] for lost in old} == {"failed"}
    assert Task.objects.get(pk=old[0].pk).error_info == "the task was lost: nothing worked on it any more"
    assert queue.waiting_ids() == [young_pending.pk]
    work()
    after = statuses()
    assert after[young_pending.pk] == "succeeded"
    assert {after[row.pk] for row in (young_running, other_agent, reported)} == {"running"}


def test_init_check_leaves_what_has_a_job(client: APIClient) -> None:
    waiting = submit(client)
    running = task("running", 9999)
    get_redis().zadd(f"{RQ_KEY_PREFIX}:wip:default", {f"{running.pk}:run": 9e12})
    Task.objects.filter(pk=waiting).update(created_at=now() - timedelta(days=1))
    assert run("init_check") == "Init check: nothing to do.\n"
    assert statuses() == {waiting: "pending", running.pk: "running"}


def test_accepted_tasks_that_redis_lost_are_queued_again_and_run_once(
    client: APIClient, work: Callable[..., Any]
) -> None:
    done = submit(client, {"n": 0})
    work()
    lost = [submit(client, {"n": number}) for number in (1, 2, 3)]
    get_redis().flushall()
    work()
    assert [statuses()[task_id] for task_id in lost] == ["pending"] * 3
    queue.enqueue(done, jobs.run_prediction)  # what a failover may bring back: Redis forgot that it had ended
    assert run("init_check") == "Init check: 3 enqueued again.\n"
    work()
    assert statuses() == dict.fromkeys([done, *lost], "succeeded")
    assert sorted(call["n"] for call in predictors.calls) == [0, 1, 2, 3]


def test_a_second_init_check_changes_nothing_more(client: APIClient) -> None:
    task("pending", 400)
    task("pending", 5)
    run("init_check")
    before = list(Task.objects.order_by("pk").values())
    assert run("init_check") == "Init check: nothing to do.\n"
    assert list(Task.objects.order_by("pk").values()) == before
    assert queue.sizes().waiting == 1


def test_two_init_checks_at_once_do_each_thing_once(client: APIClient) -> None:
    for _ in range(20):
        task("pending", 400)
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
    from predictions import maintenance
    from predictions.queue.scheduler import Scheduler

    old = task("pending", 400)
    for _ in range(2):
        scheduler = Scheduler()
        scheduler.every(1800, maintenance.init_check_job)
        scheduler.enqueue_jobs()
    assert get_redis().llen(f"{RQ_KEY_PREFIX}:queue:default-maintenance") == 1
    assert queue.sizes().waiting == 0
    work()
    assert statuses() == {old.pk: "failed"}
    assert predictors.calls == []


def test_a_scheduler_ends_quietly_also_where_another_signed_off_for_both(shell: Shell) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def sign_off() -> bool:
        return bool(
            get_redis().exists(f"{RQ_KEY_PREFIX}:queue:default-maintenance") and get_redis().delete(get_registry_key())
        )

    said = shell("scheduler", ctrl_c=sign_off)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert (said.code, "Traceback" in said.err) == (0, False)
