"""Tells temporary errors of Redis from lasting ones."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import redis

# A server that is not master answers these. A former master may answer NOREPLICAS: its replicas have left it.
NOT_MASTER = ("MOVED", "ASK", "READONLY", "NOREPLICAS", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "UNBLOCKED")
_LATER = (*NOT_MASTER, "LOADING", "MISCONF", "OOM")


class QueueUnavailable(Exception):
    """Redis did not answer, or not usably."""


@contextmanager
def redis_errors() -> Iterator[None]:
    """Turns redis-py's errors into QueueUnavailable."""
    try:
        yield
    except redis.RedisError as error:
        raise QueueUnavailable("Redis did not answer") from error


def is_lost(error: BaseException) -> bool:
    """Whether the same command may succeed later."""
    return isinstance(error, redis.ConnectionError | redis.TimeoutError) or error_code(error) in _LATER


def error_code(error: BaseException) -> str:
    """The word by which Redis names an error, "" for an error that Redis did not answer."""
    if not isinstance(error, redis.ResponseError):
        return ""
    # Before version 7, Redis wraps what goes wrong inside a script: "ERR Error running script … -READONLY You …"
    wrapped = re.search(r"Error running script.*? -([A-Z]+) ", str(error))
    return wrapped[1] if wrapped else error.status_code or str(error).partition(" ")[0]
