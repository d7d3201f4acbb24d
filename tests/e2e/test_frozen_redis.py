"""A Redis that keeps its connections and never answers."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from predictions.models import Task
from tests.e2e.faults import assert_outputs_belong_to_inputs
from tests.helpers.redis_topologies import Topology, running
from tests.helpers.servers import Server
from tests.helpers.slow_platform import SlowPlatform
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

Serve = Callable[..., Server]
CALLERS = 200
"""More than the connections of a process."""


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Topology]:
    with running("single", tmp_path / "redis") as servers:
        yield servers


def test_submissions_are_refused_soon_and_nothing_is_lost(
    serve: Serve, slow_platform: SlowPlatform, redis: Topology
) -> None:
    settings = {**redis.environment(), **slow_platform.environment(), "MAX_QUEUE_SIZE": "10000"}
    web = serve("web", **settings)
    serve("worker", WORKER_CONCURRENCY="64", **settings)

    def submit(number: int) -> requests.Response:
        body = {"model_name": "m", "inputs": {"n": number, "sleep": 2}}
        return requests.post(f"{web.url}/async/v1/predict", json=body, timeout=120)

    with ThreadPoolExecutor(CALLERS) as pool:
        assert {answer.status_code for answer in pool.map(submit, range(CALLERS))} == {200}
        redis.master().freeze()
        refused = list(pool.map(submit, range(CALLERS, 2 * CALLERS)))
        one_more = submit(2 * CALLERS)
        sync = requests.post(f"{web.url}/v1/predict", json={"model_name": "m", "inputs": {"n": "sync"}}, timeout=60)
        ready = requests.get(f"{web.url}/ready", timeout=60)
        redis.master().thaw()
    assert {(answer.status_code, answer.json()["code"]) for answer in (*refused, one_more)} == {(503, "unavailable")}
    assert sync.status_code == 200
    assert ready.json()["checks"]["redis"] == "does not answer"
    until(lambda: not Task.objects.unfinished().exists(), seconds=120)
    ended = Counter(task.status for task in Task.objects.all())
    assert ended == {"succeeded": CALLERS + 1, "failed": CALLERS + 1}
    seen = Counter(call["n"] for call in slow_platform.calls())
    assert seen == {**dict.fromkeys(range(CALLERS), 1), "sync": 1}
    assert_outputs_belong_to_inputs()
    until(lambda: submit(-1).status_code == 200)
    seconds = sorted(answer.elapsed.total_seconds() for answer in refused)
    print(
        f"\n{CALLERS} submissions at once to a frozen Redis: refused after {seconds[CALLERS // 2]:.1f} s (median), "
        f"{seconds[-1]:.1f} s (longest); one alone after {one_more.elapsed.total_seconds():.1f} s; "
        f"/ready after {ready.elapsed.total_seconds():.1f} s"
    )


def test_a_freeze_between_two_commands_of_a_submission_is_refused_too(
    serve: Serve, slow_platform: SlowPlatform, redis: Topology
) -> None:
    web = serve("web", **redis.environment(), **slow_platform.environment(), MAX_QUEUE_SIZE="100000")
    body = {"model_name": "m", "inputs": {}}
    answers: list[requests.Response] = []

    def submit_on() -> None:
        with requests.Session() as session:
            while not answers or answers[-1].status_code == 200:
                answers.append(session.post(f"{web.url}/async/v1/predict", json=body, timeout=120))

    with ThreadPoolExecutor(8) as pool:
        callers = [pool.submit(submit_on) for _ in range(8)]
        until(lambda: len(answers) > 50)
        redis.master().freeze()
        for caller in callers:
            caller.result()
    longest = max(answer.elapsed.total_seconds() for answer in answers)
    redis.master().thaw()
    refused = [answer for answer in answers if answer.status_code != 200]
    assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {(503, "unavailable")}
    assert Task.objects.filter(status="failed").count() == len(refused)
    accepted = {answer.json()["id"] for answer in answers if answer.status_code == 200}
    assert accepted == set(Task.objects.filter(status="pending").values_list("pk", flat=True))
    print(f"\n{len(refused)} submissions caught by the freeze: the longest took {longest:.1f} s")
