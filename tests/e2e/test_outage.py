"""The database and Redis going away while a worker runs tasks, and cancels that reach another process."""

from collections import Counter
from collections.abc import Callable

import pytest
import requests
from django.conf import settings
from django.db import connection
from rq.defaults import RQ_KEY_PREFIX

from predictions import submission
from predictions.models import Task
from predictions.queue import queue
from predictions.submission import PredictionRequest
from tests.e2e.faults import assert_outputs_belong_to_inputs
from tests.helpers.proxy import Proxy
from tests.helpers.servers import Server, database_url
from tests.helpers.slow_platform import SlowPlatform
from tests.helpers.stub import Stub, hangs
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

Serve = Callable[..., Server]


def submit(count: int, **inputs: object) -> None:
    for number in range(count):
        submission.submit(PredictionRequest(model_name="m", inputs={"n": number, **inputs}))


def ends_well(platform: SlowPlatform, count: int) -> None:
    """Every task succeeded with the outputs of its inputs, and each prediction was made once."""
    until(lambda: not Task.objects.unfinished().exists(), seconds=120)
    assert Counter(task.status for task in Task.objects.all()) == {"succeeded": count}
    assert Counter(call["n"] for call in platform.calls()) == dict.fromkeys(range(count), 1)
    assert_outputs_belong_to_inputs()
    until(lambda: queue.sizes() == queue.Sizes(0, 0), seconds=60)


@pytest.fixture
def here(configured: Callable[..., None], slow_platform: SlowPlatform) -> None:
    """This process submits tasks for the slow platform."""
    configured(ML_PLATFORM="k8s", MAX_QUEUE_SIZE=1000)


@pytest.mark.usefixtures("here")
def test_a_result_that_the_database_would_not_take_is_written_later_and_not_run_again(
    serve: Serve, slow_platform: SlowPlatform
) -> None:
    assert connection.vendor == "postgresql", "run it on PostgreSQL: a SQLite file cannot go away"
    host, port = connection.settings_dict["HOST"], connection.settings_dict["PORT"]
    proxy = Proxy(f"{host}:{port}")
    through = database_url().replace(f"{host}:{port}", proxy.address)
    submit(16, sleep=3)
    serve("worker", WORKER_CONCURRENCY="8", DATABASE_URL=through, **slow_platform.environment())
    until(lambda: len(slow_platform.calls()) == 8)
    proxy.cut()
    until(
        lambda: queue.get_redis().zcard(f"{RQ_KEY_PREFIX}:scheduled:default") >= 8, seconds=60
    )  # their outcomes are kept
    assert Task.objects.filter(status="running").count() == 8
    proxy.mend()
    ends_well(slow_platform, 16)
    proxy.close()


@pytest.mark.usefixtures("here")
def test_a_redis_that_is_away_for_longer_than_a_lease_makes_nothing_run_twice(
    serve: Serve, slow_platform: SlowPlatform
) -> None:
    proxy = Proxy(settings.REDIS_ADDRESS)
    submit(16, sleep=4)
    serve("worker", WORKER_CONCURRENCY="8", REDIS_ADDRESS=proxy.address, **slow_platform.environment())
    until(lambda: len(slow_platform.calls()) == 8)
    proxy.cut()
    until(lambda: Task.objects.filter(status="succeeded").count() == 8)  # the database has them, Redis not yet
    lapse = time_of_redis() + 26
    until(lambda: time_of_redis() > lapse, seconds=40)
    proxy.mend()
    ends_well(slow_platform, 16)
    proxy.close()


def time_of_redis() -> float:
    return float(queue.get_redis().time()[0])


@pytest.mark.parametrize("platform", ["k8s", "kserve"])
def test_a_cancel_reaches_the_worker_in_another_process(serve: Serve, platform: str) -> None:
    stub = Stub()
    for route in ("POST /v1/predict", "POST /v1/models/m:predict"):
        stub.script(route, hangs)
    environment = {"ML_PLATFORM": platform, "K8SPLUGIN_ADDRESS": stub.address, "KSERVE_ADDRESS": stub.address}
    web = serve("web", **environment)
    serve("worker", **environment)
    body = {"model_name": "m", "inputs": {}}
    task_id = requests.post(f"{web.url}/async/v1/predict", json=body, timeout=30).json()["id"]
    until(lambda: stub.received)
    assert requests.post(f"{web.url}/cancel/{task_id}", timeout=30).status_code == 202
    assert stub.hung_up.wait(20)
    assert Task.objects.get().status == "canceled"
    until(lambda: queue.sizes() == queue.Sizes(0, 0))
    stub.close()
