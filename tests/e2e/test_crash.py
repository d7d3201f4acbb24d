"""kill -9 in the middle of work, and what sets the record right."""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from django.core.management import call_command
from django.utils.timezone import now, timedelta

from predictions.models import Task
from predictions.queue import queue
from tests.e2e.faults import assert_outputs_belong_to_inputs
from tests.helpers.servers import Server
from tests.helpers.slow_platform import SlowPlatform
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow


def test_init_check_after_worker_and_web_were_killed_in_mid_work(
    serve: Callable[..., Server], slow_platform: SlowPlatform
) -> None:
    environment = {**slow_platform.environment(), "WORKER_CONCURRENCY": "4"}
    web, worker = serve("web", **environment), serve("worker", **environment)
    body = {"model_name": "m", "inputs": {"n": "sync", "sleep": 3}}
    bodies = [{"model_name": "m", "inputs": {"n": number, "sleep": 3}} for number in range(8)]
    ids = [requests.post(f"{web.url}/async/v1/predict", json=one, timeout=30).json()["id"] for one in bodies]
    until(lambda: Task.objects.filter(status="running").count() == 4)
    with ThreadPoolExecutor() as callers:
        waits = callers.submit(requests.post, f"{web.url}/v1/predict", json=body, timeout=30)
        until(lambda: Task.objects.filter(status="running").count() == 5)
        worker.kill()
        web.kill()
    assert isinstance(waits.exception(), requests.ConnectionError)
    sync_task = Task.objects.exclude(pk__in=ids).get()

    call_command("init_check")  # everything is younger than TASK_TIMEOUT and has a job: nothing is touched
    assert Counter(task.status for task in Task.objects.all()) == {"running": 5, "pending": 4}

    Task.objects.filter(pk=sync_task.pk).update(started_at=now() - timedelta(seconds=400))

    def is_failed() -> bool:  # once the killed process is no longer taken to hold it
        call_command("init_check")
        sync_task.refresh_from_db()
        return sync_task.status == "failed"

    until(is_failed, seconds=60)
    assert "lost" in sync_task.error_info

    killed_at = time.time()
    serve("worker", **environment)
    until(lambda: not Task.objects.unfinished().exists(), seconds=90)
    tasks = Task.objects.filter(pk__in=ids)
    assert Counter(task.status for task in tasks) == {"succeeded": 8}
    assert Counter(task.attempt for task in tasks) == {1: 4, 2: 4}
    assert_outputs_belong_to_inputs()
    until(lambda: queue.sizes() == queue.Sizes(0, 0))
    print(f"\nall run {time.time() - killed_at:.0f} s after a new worker came")

    before = list(Task.objects.order_by("pk").values())
    for command in ("init_check", "init_check", "sweep_archive", "sweep_archive"):
        call_command(command)
    assert list(Task.objects.order_by("pk").values()) == before


def test_a_second_worker_takes_over_from_a_killed_one_within_a_minute(
    serve: Callable[..., Server], slow_platform: SlowPlatform
) -> None:
    environment = {**slow_platform.environment(), "WORKER_CONCURRENCY": "4", "MAX_QUEUE_SIZE": "100"}
    web, first = serve("web", **environment), serve("worker", **environment)
    body = {"model_name": "m", "inputs": {"sleep": 60}}
    requests.post(f"{web.url}/async/v1/predict", json=body, timeout=30)
    until(lambda: Task.objects.filter(status="running").count() == 1)
    serve("worker", **environment)
    time.sleep(1)
    killed_at = time.time()
    first.kill()
    until(lambda: Task.objects.filter(attempt=2).exists(), seconds=60)
    print(f"\nfound again after {time.time() - killed_at:.0f} s")
