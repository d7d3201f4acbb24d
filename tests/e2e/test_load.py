"""Many at once: a worker full of waiting predictions, and a crowd of submitters at the queue's bound."""

import json
import socket
import statistics
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import requests
from rq.defaults import RQ_KEY_PREFIX

from predictions import submission
from predictions.models import Task
from predictions.queue import queue
from predictions.submission import PredictionRequest
from tests.e2e.faults import assert_outputs_belong_to_inputs
from tests.helpers.servers import Server
from tests.helpers.slow_platform import SlowPlatform
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

Serve = Callable[..., Server]


def test_640_tasks_of_one_second_on_64_slots(serve: Serve, slow_platform: SlowPlatform) -> None:
    runs_tasks_of_one_second(serve, slow_platform, slots=64, megabytes=150)


def test_2560_tasks_of_one_second_on_256_slots(serve: Serve, slow_platform: SlowPlatform) -> None:
    runs_tasks_of_one_second(serve, slow_platform, slots=256, megabytes=200)


def runs_tasks_of_one_second(serve: Serve, slow_platform: SlowPlatform, *, slots: int, megabytes: int) -> None:
    """Ten for each slot: each is run once and succeeds, by one process of less than so many MB. The wall time is
    reported; ideal is 10 s."""
    count = 10 * slots
    tasks = [
        submission.new_task(PredictionRequest(model_name="m", inputs={"n": n, "sleep": 1}), Task.Status.PENDING)
        for n in range(count)
    ]
    for task in tasks:
        task.platform = "k8s"
    Task.objects.bulk_create(tasks)
    queue.pause("test")
    for task in tasks:
        queue.enqueue(task.pk, bounded=False)
    worker = serve("worker", WORKER_CONCURRENCY=str(slots), **slow_platform.environment())
    until(lambda: queue.get_redis().scard(f"{RQ_KEY_PREFIX}:workers") == 1)
    time.sleep(1)
    queue.resume()
    peak = 0.0
    while Task.objects.unfinished().exists():
        peak = max(peak, worker.memory_mb())
        assert worker.process.poll() is None, worker.output()
        time.sleep(0.25)
    calls = slow_platform.calls()
    assert Counter(task.status for task in Task.objects.all()) == {"succeeded": count}
    assert Counter(call["n"] for call in calls) == dict.fromkeys(range(count), 1)
    assert_outputs_belong_to_inputs()
    assert peak < megabytes
    ended = max(task.ended_at for task in Task.objects.all()).timestamp()
    wall = ended - min(call["at"] for call in calls)
    print(f"\n{count} tasks of 1 s on {slots} slots: {wall:.2f} s (ideal 10 s), worker {peak:.0f} MB")


def test_2000_predictions_wait_at_once_in_one_process_of_web(serve: Serve, slow_platform: SlowPlatform) -> None:
    web = serve("web", WEB_CONCURRENCY="1", **slow_platform.environment())
    with ExitStack() as stack:
        callers = [stack.enter_context(socket.create_connection(("127.0.0.1", web.port))) for _ in range(2000)]
        for number, caller in enumerate(callers):
            body = json.dumps({"model_name": "m", "inputs": {"n": number, "sleep": 60}})
            head = "POST /v1/predict HTTP/1.1\r\nHost: agent\r\nContent-Type: application/json\r\nContent-Length:"
            caller.sendall(f"{head} {len(body)}\r\n\r\n{body}".encode())
        until(lambda: Task.objects.filter(status="running").count() == 2000, seconds=50)
        assert Counter(caller.recv(12) for caller in callers) == {b"HTTP/1.1 200": 2000}
    assert Counter(Task.objects.values_list("status", flat=True)) == {"succeeded": 2000}
    assert_outputs_belong_to_inputs()


def test_64_submitters_never_exceed_the_bound(serve: Serve) -> None:
    web = serve("web", MAX_QUEUE_SIZE="100", WEB_CONCURRENCY="2")
    queue.pause("test")
    sizes: list[int] = []

    def submit_fifty(_: int) -> list[requests.Response]:
        session = requests.Session()
        body = {"model_name": "iris", "inputs": {}}
        return [session.post(f"{web.url}/async/v1/predict", json=body, timeout=60) for _ in range(50)]

    with ThreadPoolExecutor(65) as pool:
        crowd = [pool.submit(submit_fifty, n) for n in range(64)]
        while not all(future.done() for future in crowd):
            sizes.append(queue.sizes().waiting)
        answers = [answer for future in crowd for answer in future.result()]
    assert Counter(answer.status_code for answer in answers) == {200: 100, 429: 3100}
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in answers if answer.status_code == 429)
    assert max(sizes) <= 100
    assert queue.sizes().waiting == 100
    accepted = {answer.json()["id"] for answer in answers if answer.status_code == 200}
    assert {task.pk for task in Task.objects.all()} == accepted
    seconds = statistics.median(answer.elapsed.total_seconds() for answer in answers)
    print(f"\n3,200 submissions by 64 threads: 100 accepted, median answer {seconds * 1000:.0f} ms")
