"""The process's one connection pool to Redis, shared with django-rq."""

import contextlib
import os
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import redis
from django.conf import settings
from django.core.cache.backends.base import BaseCache
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

CONNECT_TIMEOUT_SECONDS = 1.0
REPLY_TIMEOUT_SECONDS = 5.0
"""Above the one second for which a worker's wait blocks; below it a frozen server would hold a process for long."""

# What redis-py raises when no answer, or no usable one, came: the same command may succeed later.
LOST = (RedisConnectionError, RedisTimeoutError)
_LATER = ("NOREPLICAS", "LOADING", "READONLY", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "MISCONF", "OOM")


def is_lost(error: BaseException) -> bool:
    """Whether a Redis error means "not now" rather than "never"."""
    if isinstance(error, LOST):
        return True
    return isinstance(error, redis.ResponseError) and str(error).startswith(_LATER)


def get_redis() -> redis.Redis:
    """The client every part of this process uses. It connects at its first command."""
    return _client(os.getpid())


@lru_cache(maxsize=1)
def _client(pid: int) -> redis.Redis:
    host, port = _address()
    pool = redis.BlockingConnectionPool(
        host=host,
        port=port,
        password=settings.REDIS_PASSWORD or None,
        max_connections=max(32, settings.WORKER_CONCURRENCY // 2 + 8),
        timeout=REPLY_TIMEOUT_SECONDS,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_timeout=REPLY_TIMEOUT_SECONDS,
        socket_keepalive=True,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 2, supported_errors=(RedisConnectionError,)),
        **({"connection_class": redis.SSLConnection} if settings.REDIS_TLS else {}),
    )
    return redis.Redis(connection_pool=pool)


def _address() -> tuple[str, int]:
    """Where Redis is: REDIS_ADDRESS, else the embedded one that `scripts/run` started and left its address of."""
    address = settings.REDIS_ADDRESS
    if not address:
        with contextlib.suppress(OSError):
            address = (Path(settings.EMBEDDED_REDIS_DIR) / "address").read_text().strip()
    if not address:
        raise RedisConnectionError(
            "there is no Redis: set REDIS_ADDRESS=host:port, or use scripts/run, which starts one"
        )
    host, _, port = address.split(",")[0].strip().rpartition(":")
    return (host, int(port)) if host else (port, 6379)


def forget_connections() -> None:
    """Drops the client, so that changed settings take effect."""
    _client.cache_clear()


class SharedConnection(BaseCache):
    """What django-rq's `USE_REDIS_CACHE` asks for its connection; not a cache."""

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)

    @property
    def _client(self) -> redis.Redis:
        return get_redis()


_scripts_lock = threading.Lock()
_scripts: dict[str, Any] = {}


def run_script(source: str, *, keys: list[str], args: list[Any]) -> Any:
    """Runs a Lua script by its hash, loading it where the server does not know it yet."""
    client = get_redis()
    with _scripts_lock:
        script = _scripts.get(source)
        if script is None:
            script = _scripts[source] = client.register_script(source)
    return script(keys=keys, args=args, client=client)
