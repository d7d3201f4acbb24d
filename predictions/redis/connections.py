"""The process's one connection pool to Redis, shared with django-rq."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any

import redis
from django.conf import settings
from django.core.cache.backends.base import BaseCache
from redis.backoff import ExponentialBackoff
from redis.crc import key_slot
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry
from rq.defaults import RQ_KEY_PREFIX

from predictions.redis.addresses import Address, named_servers
from predictions.redis.errors import NOT_MASTER, error_code
from predictions.redis.topology import ASK_OPTIONS, MasterSearch, NewestSentinel, SlotOwner

CONNECT_TIMEOUT_SECONDS = 1.0
REPLY_TIMEOUT_SECONDS = 3.0
"""A worker's wait blocks for one second. A longer timeout would let a frozen server block a process for longer."""
POOL_WAIT_SECONDS = 2.0
"""How long a command waits for a free connection. All are busy only when Redis hangs."""
IDLE_SECONDS = 2.0
"""A connection that was idle for longer checks that its server is still the master. A former master that was frozen
during the election accepts writes for some seconds after it wakes up. A busy connection notices the freeze itself."""


class MasterConnection(redis.Connection):
    """Asks who is master whenever it connects.

    redis-py's SentinelManagedConnection asks in `connect` alone. When redis-py repeats a command it connects without
    `connect`, and so would return to the former master.
    """

    def __init__(self, *, find_master: Callable[[], Address], **options: Any) -> None:
        self._find_master = find_master
        super().__init__(**options)

    def _connect(self) -> Any:
        self.host, self.port = self._find_master()
        self.next_health_check = time.monotonic() + self.health_check_interval  # type: ignore[assignment]
        return super()._connect()

    def check_health(self) -> None:
        """redis-py calls this before each command. Raises ConnectionError if another server became master."""
        if self.health_check_interval and time.monotonic() > self.next_health_check:
            master = self.host, self.port
            with suppress(redis.RedisError):  # no server says who is master: keep using this one
                master = self._find_master()
            if master != (self.host, self.port):
                self.disconnect()
                raise redis.ConnectionError("another Redis server became master")
        super().check_health()

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().read_response(*args, **kwargs)
        except redis.ResponseError as error:
            if (code := error_code(error)) not in NOT_MASTER:
                raise
            self.disconnect()
            raise redis.ConnectionError(f"Redis answered {code}: {error}") from error


class MasterTLSConnection(MasterConnection, redis.SSLConnection):
    """A MasterConnection over TLS."""


class Client(redis.Redis):
    """Without item access: Django's templates try `client["connection_pool"]` first, which would read a key."""

    def __getitem__(self, name: Any) -> Any:
        raise KeyError(name)


def get_redis() -> redis.Redis:
    """The client that all parts of this process use. It connects at its first command."""
    return _client(os.getpid())


@lru_cache(maxsize=1)
def _client(pid: int) -> redis.Redis:
    login: dict[str, Any] = {"password": settings.REDIS_PASSWORD or None}
    if settings.REDIS_TLS:
        login["ssl_ca_certs"] = settings.REDIS_TLS_CA_FILE or None
        login["ssl_certfile"] = settings.REDIS_TLS_CERT_FILE or None
        login["ssl_keyfile"] = settings.REDIS_TLS_KEY_FILE or None
    pool = redis.BlockingConnectionPool(
        connection_class=MasterTLSConnection if settings.REDIS_TLS else MasterConnection,
        max_connections=max(32, settings.WORKER_CONCURRENCY // 2 + 8),
        timeout=POOL_WAIT_SECONDS,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_timeout=REPLY_TIMEOUT_SECONDS,
        socket_keepalive=True,
        retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 2, supported_errors=(redis.ConnectionError,)),
        # Only one vendor's servers send these. With them, redis-py does not check that a pooled connection still works.
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        **login,
        **_topology({**ASK_OPTIONS, **login, "ssl": settings.REDIS_TLS}),
    )
    return Client(connection_pool=pool)


def _topology(ask_options: dict[str, Any]) -> dict[str, Any]:
    """The pool's options that depend on the kind of Redis. `ask_options` are those of a client that looks for it."""
    servers = named_servers()
    # django-rq compares and shows these two. Connections go where `find_master` says.
    options: dict[str, Any] = {"host": servers[0][0], "port": servers[0][1], "health_check_interval": IDLE_SECONDS}
    if settings.REDIS_SENTINELS:
        password = settings.REDIS_SENTINEL_PASSWORD or None
        sentinel = NewestSentinel(servers, sentinel_kwargs={**ask_options, "password": password})
        search = partial(sentinel.discover_master, settings.REDIS_SENTINEL_MASTER)
        return options | {"find_master": MasterSearch(search, ask_options)}
    if settings.REDIS_CLUSTER_MODE:
        owner = SlotOwner(servers, slot=key_slot(f"{RQ_KEY_PREFIX}:".encode()), options=ask_options)
        return options | {"find_master": MasterSearch(owner.find, ask_options)}
    return options | {"find_master": lambda: servers[0], "health_check_interval": 30}


def forget_connections() -> None:
    """Drops the client, so that changed settings take effect."""
    _client.cache_clear()


class SharedConnection(BaseCache):
    """Gives django-rq its connection (`USE_REDIS_CACHE`); not a cache."""

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)

    @property
    def _client(self) -> redis.Redis:
        return get_redis()
