"""Workers killed, frozen, told to end and held, while hundreds of tasks run and wait."""

import signal
import time
from collections import Counter
from collections.abc import Callable

import pytest
import requests
from django.conf import settings
from rq.defaults import RQ_KEY_PREFIX

from predictions.models import Task
from predictions.queue import queue
from predictions.queue.overview import overview
from predictions.redis.connections import get_redis
from tests.e2e.faults import Crowd, settles
from tests.helpers.proxy import Proxy
from tests.helpers.servers import Server
from tests.helpers.slow_platform import SlowPlatform
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

Serve = Callable[..., Server]
Start = Callable[..., Server]
SLOTS = 64
TASKS = 320


@pytest.fixture
def start(serve: Serve, slow_platform: SlowPlatform) -> Start:
    """A process of an agent for the slow platform, with 64 slots and room for a thousand tasks."""

    def start(process: str, **environment: str) -> Server:
        sizes = {"WORKER_CONCURRENCY": str(SLOTS), "MAX_QUEUE_SIZE": "10000"}
        return serve(process, **{**slow_platform.environment(), **sizes, **environment})

    return start


def runs_of(worker: Server) -> set[str]:
    """The tasks that run in a worker, as Redis knows."""
    (known,) = [known for known in overview().workers if known.pid == worker.process.pid]
    members = get_redis().smembers(f"{RQ_KEY_PREFIX}:worker:{known.name}:executions")
    return {member.decode().rpartition(":")[0] for member in members}


def is_full(worker: Server) -> bool:
    pids = {known.pid for known in overview().workers}
    return worker.process.pid in pids and len(runs_of(worker)) == SLOTS


def wait_for_rest(crowd: Crowd, long_ones: int) -> None:
    """The first ones run for as long as the crowd began with, the rest is over soon."""
    crowd.wait_for(long_ones)
    crowd.inputs = {"sleep": 0.3}
    crowd.wait_for(TASKS)


def running() -> set[str]:
    return set(Task.objects.filter(status=Task.Status.RUNNING).values_list("pk", flat=True))


def attempts() -> Counter[int]:
    return Counter(Task.objects.values_list("attempt", flat=True))


def test_the_jobs_of_a_killed_worker_are_run_again_by_another(start: Start, slow_platform: SlowPlatform) -> None:
    web, first, second = start("web"), start("worker"), start("worker")
    with Crowd(web.url, sleep=12) as crowd:
        wait_for_rest(crowd, 2 * SLOTS)
    until(lambda: is_full(first) and is_full(second) and len(running()) == 2 * SLOTS)
    doomed = runs_of(first)
    first.kill()
    killed_at = time.monotonic()
    until(lambda: attempts()[2] == SLOTS, seconds=60)
    print(f"\n{SLOTS} jobs of the killed worker run again after {time.monotonic() - killed_at:.0f} s")
    assert settles(crowd, slow_platform) == {"succeeded": len(crowd.accepted)}
    assert set(Task.objects.filter(attempt=2).values_list("pk", flat=True)) == doomed


def test_a_late_result_of_a_frozen_worker_is_ignored(start: Start, slow_platform: SlowPlatform) -> None:
    web, first = start("web"), start("worker")
    with Crowd(web.url, sleep=4) as crowd:
        wait_for_rest(crowd, SLOTS)
    until(lambda: is_full(first) and len(running()) == SLOTS)
    frozen = runs_of(first)
    first.signal(signal.SIGSTOP)
    second = start("worker")
    until(lambda: Task.objects.filter(pk__in=frozen, attempt=2).count() == SLOTS, seconds=120)
    first.signal(signal.SIGCONT)
    assert settles(crowd, slow_platform) == {"succeeded": len(crowd.accepted)}
    assert attempts() == {1: len(crowd.accepted) - SLOTS, 2: SLOTS}
    for worker in (first, second):
        assert worker.process.poll() is None


def test_a_stopping_worker_finishes_running_tasks_and_takes_no_new_ones(
    start: Start, slow_platform: SlowPlatform
) -> None:
    web, worker = start("web"), start("worker")
    with Crowd(web.url, sleep=8) as crowd:
        wait_for_rest(crowd, SLOTS)
        until(lambda: len(slow_platform.calls()) == SLOTS)
        worker.signal(signal.SIGTERM)
        assert worker.process.wait(60) == 0
    assert len(slow_platform.calls()) == SLOTS
    assert (Task.objects.filter(status="succeeded").count(), running()) == (SLOTS, set())
    start("worker")
    assert settles(crowd, slow_platform) == {"succeeded": len(crowd.accepted)}
    assert attempts() == {1: len(crowd.accepted)}


@pytest.mark.parametrize("how", ["after the wait", "at a second signal"])
def test_unfinished_tasks_return_to_the_front_of_the_queue_as_the_same_attempt(
    start: Start, slow_platform: SlowPlatform, how: str
) -> None:
    web = start("web")
    worker = start("worker", WORKER_SHUTDOWN_TIMEOUT="3" if how == "after the wait" else "")
    with Crowd(web.url, sleep=10) as crowd:
        wait_for_rest(crowd, SLOTS)
    until(lambda: len(slow_platform.calls()) == SLOTS)
    handed_back = running()
    worker.signal(signal.SIGTERM)
    told_at = time.monotonic()
    if how == "at a second signal":
        time.sleep(0.5)
        worker.signal(signal.SIGTERM)
    assert worker.process.wait(60) == 0
    print(f"\n{how}: {len(handed_back)} jobs handed back, worker ended after {time.monotonic() - told_at:.1f} s")
    assert Task.objects.filter(status="succeeded").count() == 0
    assert set(queue.waiting_ids()[:SLOTS]) == handed_back
    assert Task.objects.filter(pk__in=handed_back, status="pending", attempt=1).count() == SLOTS
    start("worker")
    statuses = settles(crowd, slow_platform, begun_again=handed_back)
    assert statuses == {"succeeded": len(crowd.accepted)}
    assert attempts() == {1: len(crowd.accepted)}


def test_a_killed_workers_tasks_wait_again_and_can_be_deleted(start: Start, slow_platform: SlowPlatform) -> None:
    web, doomed = start("web"), start("worker", WORKER_CONCURRENCY="4")
    body = {"model_name": "m", "inputs": {"sleep": 120}}
    ids = [requests.post(f"{web.url}/async/v1/predict", json=body, timeout=30).json()["id"] for _ in range(9)]
    until(lambda: len(running()) == 4)
    held = running()
    queue.pause("the test")  # the other worker looks after the queue, and takes nothing
    start("worker")
    until(lambda: len(overview().workers) == 2)
    doomed.kill()
    until(lambda: Task.objects.filter(pk__in=held, status="pending", attempt=1).count() == 4, seconds=60)
    assert requests.get(f"{web.url}/v1/queue_size", timeout=30).json() == {"queue_size": 9}
    canceled = requests.post(f"{web.url}/cancel/{min(held)}", timeout=30)
    assert canceled.status_code == 200
    deleted = requests.post(f"{web.url}/delete_pending", headers={"apikey": "operator-key"}, timeout=30)
    assert deleted.json() == {"num_of_pending_tasks": 8, "num_of_deleted_tasks": 8}
    assert Task.objects.filter(pk__in=ids, status="canceled").count() == 9
    queue.resume()
    until(lambda: queue.sizes() == queue.Sizes(0, 0))
    assert len(slow_platform.calls()) == 4


def test_a_worker_that_is_held_takes_nothing_until_it_goes_on(start: Start, slow_platform: SlowPlatform) -> None:
    web, worker = start("web"), start("worker")
    with Crowd(web.url, sleep=1) as crowd:
        until(lambda: len(slow_platform.calls()) >= SLOTS)
        worker.signal(signal.SIGTSTP)
        crowd.wait_for(TASKS)
        until(lambda: queue.sizes().running == 0)
        seen = len(slow_platform.calls())
        crowd.wait_for(TASKS + 50)
        assert (len(slow_platform.calls()), running()) == (seen, set())
        worker.signal(signal.SIGCONT)
    assert settles(crowd, slow_platform) == {"succeeded": len(crowd.accepted)}
    assert attempts() == {1: len(crowd.accepted)}


def test_answers_of_redis_that_get_lost_make_nothing_run_twice(start: Start, slow_platform: SlowPlatform) -> None:
    """Every half second, Redis executes some commands but their answers are lost."""
    proxy = Proxy(settings.REDIS_ADDRESS)
    web = start("web")
    start("worker", REDIS_ADDRESS=proxy.address)
    dropped = 0
    with Crowd(web.url, sleep=0.2) as crowd:
        until(lambda: slow_platform.calls())
        while len(crowd.accepted) < TASKS or dropped < 20:
            proxy.drop_replies = True
            time.sleep(0.05)
            proxy.drop_replies = False
            dropped += 1
            time.sleep(0.45)
    assert settles(crowd, slow_platform) == {"succeeded": len(crowd.accepted)}
    assert attempts() == {1: len(crowd.accepted)}
    proxy.close()


def test_a_model_that_wants_to_end_the_process_ends_its_task_alone(serve: Serve) -> None:
    """In web, where it would take everybody's predictions with it."""
    web = serve("web", ML_PLATFORM="local", LOCAL_PREDICTOR="tests.helpers.predictors:predict")
    crowd = Crowd(web.url, callers=8, route="/v1/predict", sleep=0.5, answer=lambda inputs: {"echo": inputs})
    with crowd:
        crowd.wait_for(16)
        for error in ("SystemExit", "KeyboardInterrupt"):
            body = {"model_name": "m", "inputs": {"raise": error}}
            answer = requests.post(f"{web.url}/v1/predict", json=body, timeout=30)
            assert (answer.status_code, answer.json()["error"]) == (502, f"the model raised {error}")
        crowd.wait_for(48)
    assert crowd.refused == {}
    assert Counter(Task.objects.values_list("status", flat=True)) == {"succeeded": len(crowd.accepted), "failed": 2}
