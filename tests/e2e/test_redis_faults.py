"""Redis restarted, emptied and cut off, while hundreds of tasks run, wait and are submitted."""

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from predictions.models import Task
from predictions.queue import queue
from predictions.redis.connections import forget_connections, get_redis
from tests.e2e.faults import Crowd, settles
from tests.e2e.own_redis import OwnRedis
from tests.helpers.proxy import Proxy
from tests.helpers.servers import Server
from tests.helpers.slow_platform import SlowPlatform
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

Start = Callable[..., Server]
TASKS = 320


@pytest.fixture
def redis_server(tmp_path: Path, configured: Callable[..., None]) -> Iterator[OwnRedis]:
    """A Redis that this test may end; this process uses it too."""
    (tmp_path / "redis").mkdir()
    server = OwnRedis(tmp_path / "redis")
    configured(REDIS_ADDRESS=server.address)
    forget_connections()
    yield server
    server.end()
    forget_connections()


@pytest.fixture
def start(serve: Callable[..., Server], slow_platform: SlowPlatform, redis_server: OwnRedis) -> Start:
    def start(process: str, **environment: str) -> Server:
        sizes = {"WORKER_CONCURRENCY": "32", "MAX_QUEUE_SIZE": "10000", "REDIS_ADDRESS": redis_server.address}
        return serve(process, **{**slow_platform.environment(), **sizes, **environment})

    return start


def attempts_of_accepted(crowd: Crowd) -> Counter[int]:
    return Counter(Task.objects.filter(pk__in=crowd.accepted.values()).values_list("attempt", flat=True))


def is_well(crowd: Crowd, platform: SlowPlatform) -> None:
    """Every accepted task succeeded at its first attempt; every refused request got 503."""
    began = time.monotonic()
    statuses = settles(crowd, platform)
    print(f"all done {time.monotonic() - began:.0f} s after the last submission: {statuses}, {crowd.refused}")
    assert Counter(Task.objects.filter(pk__in=crowd.accepted.values()).values_list("status", flat=True)) == {
        "succeeded": len(crowd.accepted)
    }
    assert attempts_of_accepted(crowd) == {1: len(crowd.accepted)}
    assert set(crowd.refused) <= {"503 unavailable"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_redis_that_comes_back_with_its_data_has_lost_nothing(
    start: Start, slow_platform: SlowPlatform, redis_server: OwnRedis, number: int
) -> None:
    web, *_ = start("web"), start("worker"), start("worker")
    with Crowd(web.url, sleep=3) as crowd:
        crowd.wait_for(TASKS)
        redis_server.end(number)
        until(lambda: crowd.refused)
        time.sleep(3)
        redis_server.start()
        crowd.wait_for(TASKS + 100)
    is_well(crowd, slow_platform)


@pytest.mark.parametrize("how", ["flushed", "restarted with nothing"])
def test_a_redis_that_lost_everything_is_given_it_again(
    start: Start, slow_platform: SlowPlatform, redis_server: OwnRedis, how: str
) -> None:
    """Workers restore the queue themselves: running tasks do not run twice, and waiting tasks wait again."""
    web, *_, scheduler = start("web"), start("worker"), start("worker"), start("scheduler")
    with Crowd(web.url, sleep=3) as crowd:
        crowd.wait_for(TASKS)
        until(lambda: queue.sizes().running == 64)
        if how == "flushed":
            get_redis().flushall()
        else:
            redis_server.end()
            redis_server.lose_data()
            redis_server.start()
        emptied_at = time.monotonic()
        ids = set(Task.objects.filter(status=Task.Status.PENDING).values_list("pk", flat=True))
        until(lambda: ids <= queue.unfinished_ids() | ended(), seconds=120)
        print(f"\n{len(ids)} waiting tasks were queued again {time.monotonic() - emptied_at:.0f} s after it was {how}")
    is_well(crowd, slow_platform)
    scheduler.signal(signal.SIGTERM)
    assert scheduler.process.wait(30) == 0


def ended() -> set[str]:
    return set(Task.objects.ended().values_list("pk", flat=True))


def test_a_redis_that_cannot_be_reached_for_longer_than_a_lease_makes_nothing_run_twice(
    start: Start, slow_platform: SlowPlatform, redis_server: OwnRedis
) -> None:
    proxy = Proxy(redis_server.address)
    through = {"REDIS_ADDRESS": proxy.address}
    web, *_ = start("web", **through), start("worker", **through), start("worker", **through)
    with Crowd(web.url, sleep=5) as crowd:
        crowd.wait_for(TASKS)
        until(lambda: queue.sizes().running == 64)
        proxy.cut()
        cut_at = time.monotonic()
        refused = Counter(crowd.refused)
        time.sleep(32)
        assert set(crowd.refused - refused) == {"503 unavailable"}
        proxy.mend()
        mended_at = time.monotonic()
        accepted = len(crowd.accepted)
        crowd.wait_for(accepted + 1)
        print(f"\ncut for {mended_at - cut_at:.0f} s; submissions again {time.monotonic() - mended_at:.1f} s after")
    is_well(crowd, slow_platform)
    proxy.close()


def test_a_worker_told_to_end_while_redis_is_away_ends_with_its_predictions(
    start: Start, slow_platform: SlowPlatform, redis_server: OwnRedis
) -> None:
    """The rows have their results, so no work repeats once Redis is back."""
    web, worker = start("web"), start("worker")
    with Crowd(web.url, sleep=4) as crowd:
        crowd.wait_for(64)
    until(lambda: len(slow_platform.calls()) == 32)
    redis_server.end()
    worker.signal(signal.SIGTERM)
    told_at = time.monotonic()
    assert worker.process.wait(120) == 0  # TASK_TIMEOUT is 320 s
    print(f"\nthe worker ended {time.monotonic() - told_at:.0f} s after SIGTERM; a prediction takes 4 s")
    assert Task.objects.filter(status="succeeded").count() == 32
    redis_server.start()
    start("worker")
    is_well(crowd, slow_platform)
    assert len(slow_platform.calls()) == len(crowd.accepted)


def test_a_task_requeued_while_redis_is_away_keeps_its_attempt(
    start: Start, slow_platform: SlowPlatform, redis_server: OwnRedis
) -> None:
    """At a second SIGTERM, the rows say that the worker requeued its tasks."""
    web, worker = start("web"), start("worker")
    with Crowd(web.url, sleep=10) as crowd:
        crowd.wait_for(40)
    until(lambda: len(slow_platform.calls()) == 32)
    handed_back = set(Task.objects.filter(status="running").values_list("pk", flat=True))
    redis_server.end()
    worker.signal(signal.SIGTERM)
    time.sleep(1)
    worker.signal(signal.SIGTERM)
    assert worker.process.wait(120) == 0
    assert Task.objects.filter(pk__in=handed_back, status="pending", attempt=1).count() == 32
    redis_server.start()
    start("worker")
    assert settles(crowd, slow_platform, begun_again=handed_back) == {"succeeded": len(crowd.accepted)}
    assert attempts_of_accepted(crowd) == {1: len(crowd.accepted)}
