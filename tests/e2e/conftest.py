"""Real processes: the agent's, and a slow platform."""

from collections.abc import Iterator

import pytest

from tests.helpers import environment
from tests.helpers.redis_topologies import Cluster, Single
from tests.helpers.slow_platform import SlowPlatform

# What only some kinds of Redis can do is not collected on the others: nobody is elected where there is one server.
collect_ignore = [
    *(["test_failover.py"] if isinstance(environment.servers, Single) else []),
    *([] if isinstance(environment.servers, Cluster) else ["test_resharding.py"]),
]


@pytest.fixture
def slow_platform() -> Iterator[SlowPlatform]:
    platform = SlowPlatform()
    yield platform
    platform.close()
