"""The hash slot of the agent's keys moved to another master under load: `TEST_REDIS=cluster pytest …`."""

from collections.abc import Callable

import pytest
from django.core.management import call_command

from tests.e2e.faults import Crowd, is_drained, settles
from tests.helpers import environment
from tests.helpers.redis_topologies import Cluster
from tests.helpers.servers import Server
from tests.helpers.slow_platform import SlowPlatform
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow


def test_moving_the_slot_loses_nothing(serve: Callable[..., Server], slow_platform: SlowPlatform) -> None:
    assert isinstance(environment.servers, Cluster)
    settings = {**slow_platform.environment(), "MAX_QUEUE_SIZE": "5000", "WORKER_CONCURRENCY": "32"}
    web = serve("web", WEB_CONCURRENCY="2", **settings)
    for _ in range(2):
        serve("worker", **settings)
    before = environment.servers.master()
    with Crowd(web.url, callers=8, sleep=1) as crowd:
        crowd.wait_for(300)
        seconds = environment.servers.move_slot()
        crowd.wait_for(len(crowd.accepted) + 100)
    assert environment.servers.master() is not before
    assert set(crowd.refused) <= {"503 unavailable"}
    until(is_drained, seconds=180)
    call_command("init_check")
    ended = settles(crowd, slow_platform)
    assert ended["succeeded"] == len(crowd.accepted)
    print(f"\nmoved in {seconds:.2f} s: {ended}; refused {crowd.refused}")
