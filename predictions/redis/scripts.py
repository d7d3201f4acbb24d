"""Lua scripts that run on the server."""

from functools import cache
from typing import Any

from redis.commands.core import Script

from predictions.redis.connections import get_redis


def run_script(source: str, *, keys: list[str], args: list[Any]) -> Any:
    """Runs a Lua script by its hash, loading it where the server does not know it yet. Raises redis.RedisError."""
    return _script(source)(keys=keys, args=args, client=get_redis())


@cache
def _script(source: str) -> Script:
    return get_redis().register_script(source)
