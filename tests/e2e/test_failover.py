"""The Redis master killed or frozen under load, on a Redis Cluster and with Sentinel: `TEST_REDIS=cluster pytest …`.

The elections are Redis' own: a master that is silent for two seconds is replaced by a replica of its own.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import requests
from django.core.management import call_command
from rq.job import Job

from predictions.models import Task
from tests.e2e.faults import Crowd, assert_outputs_belong_to_inputs, is_drained, settles
from tests.helpers import environment
from tests.helpers.redis_topologies import Topology
from tests.helpers.servers import Server
from tests.helpers.slow_platform import SlowPlatform
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

Serve = Callable[..., Server]


@pytest.fixture
def servers() -> Iterator[Topology]:
    """This process's Redis, whole again afterwards."""
    yield environment.servers
    environment.servers.heal()


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_nothing_is_lost_or_run_twice_when_the_master_goes(
    serve: Serve, slow_platform: SlowPlatform, servers: Topology, fault: str
) -> None:
    settings = {**slow_platform.environment(), "MAX_QUEUE_SIZE": "5000", "WORKER_CONCURRENCY": "32"}
    web = serve("web", WEB_CONCURRENCY="2", **settings)
    processes = [web, *(serve(process, **settings) for process in ("worker", "worker", "scheduler"))]
    master = servers.master()
    with Crowd(web.url, callers=8, sleep=1) as crowd:
        crowd.wait_for(300)
        getattr(master, fault)()
        at = time.monotonic()
        until(lambda: crowd.refused, seconds=30)
        body = {"model_name": "m", "inputs": {"n": "sync"}}
        assert requests.post(f"{web.url}/v1/predict", json=body, timeout=30).status_code == 200
        before = len(crowd.accepted)
        until(lambda: len(crowd.accepted) >= before + 8, seconds=60)
        back = time.monotonic() - at
        crowd.wait_for(len(crowd.accepted) + 100)
    assert servers.master() is not master
    assert set(crowd.refused) == {"503 unavailable"}
    until(is_drained, seconds=180)
    until(is_set_right, seconds=180)
    ended = settles(crowd, slow_platform)
    assert [process.output() for process in processes if process.process.poll() is not None] == []
    assert ended["succeeded"] == len(crowd.accepted) + 1
    print(f"\n{fault} of the master: writes accepted again after {back:.1f} s; {ended}; refused {crowd.refused}")


def test_a_process_that_slept_through_the_election_writes_to_the_new_master(
    serve: Serve, slow_platform: SlowPlatform, servers: Topology
) -> None:
    settings = slow_platform.environment()
    web = serve("web", **settings)
    serve("worker", **settings)

    def submit(number: int) -> str:
        body = {"model_name": "m", "inputs": {"n": number}}
        return str(requests.post(f"{web.url}/async/v1/predict", json=body, timeout=30).json()["id"])

    submit(0)
    master = servers.master()
    master.freeze()
    servers.wait_until_replaced(master)
    time.sleep(2)  # the sentinels tell each other of an election every two seconds, and the agent asks two of them
    master.thaw()  # it acts as the master until the others tell it
    jobs = [Job.key_for(submit(number)) for number in range(1, 6)]
    assert servers.master().ask("EXISTS", *jobs) == 5
    until(lambda: Task.objects.filter(status="succeeded").count() == 6)
    assert_outputs_belong_to_inputs()


def test_the_init_check_requeues_tasks_that_a_lagging_replica_missed(
    serve: Serve, slow_platform: SlowPlatform, servers: Topology
) -> None:
    settings = {**slow_platform.environment(), "MAX_QUEUE_SIZE": "1000"}
    web = serve("web", **settings)

    def submit(number: int) -> int:
        body = {"model_name": "m", "inputs": {"n": number}}
        return requests.post(f"{web.url}/async/v1/predict", json=body, timeout=30).status_code

    assert {submit(number) for number in range(10)} == {200}
    master = servers.master()
    until(lambda: master.ask("WAIT", 1, 1000))
    master.stop_replicating()
    assert {submit(number) for number in range(10, 60)} == {200}
    master.kill()
    until(lambda: submit(60) == 200, seconds=60)
    serve("worker", **settings)
    until(is_drained)
    assert Task.objects.filter(status="pending").count() == 50
    call_command("init_check")
    until(lambda: Task.objects.filter(status="succeeded").count() == 61)
    assert Counter(call["n"] for call in slow_platform.calls()) == dict.fromkeys(range(61), 1)
    assert_outputs_belong_to_inputs()


def is_set_right() -> bool:
    """Queues again what Redis had taken and its replica not yet: once a place whose job is lost has lapsed, too."""
    call_command("init_check")
    return not Task.objects.unfinished().exists()
