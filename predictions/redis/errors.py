"""How a Redis that does not answer looks to the rest of the agent."""

from collections.abc import Iterator
from contextlib import contextmanager

import redis


class QueueUnavailable(Exception):
    """Redis did not answer, or not usably."""


@contextmanager
def redis_errors() -> Iterator[None]:
    """Turns redis-py's errors into QueueUnavailable."""
    try:
        yield
    except redis.RedisError as error:
        raise QueueUnavailable("Redis did not answer") from error
