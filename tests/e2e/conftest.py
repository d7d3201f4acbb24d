"""Real processes: the agent's, and a slow platform."""

from collections.abc import Iterator

import pytest

from tests.helpers import environment
from tests.helpers.redis_topologies import Cluster, Single
from tests.helpers.slow_platform import SlowPlatform

# Skip tests that this kind of Redis cannot pass: a single server has no elections, and only a cluster reshards.
collect_ignore = [
    *(["test_failover.py"] if isinstance(environment.servers, Single) else []),
    *([] if isinstance(environment.servers, Cluster) else ["test_resharding.py"]),
]


@pytest.fixture
def slow_platform() -> Iterator[SlowPlatform]:
    platform = SlowPlatform()
    yield platform
    platform.close()
