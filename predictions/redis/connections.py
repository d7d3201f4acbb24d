"""The process's one connection pool to Redis, shared with django-rq."""

import contextlib
import os
import re
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import redis
from django.conf import settings
from django.core.cache.backends.base import BaseCache
from redis.backoff import ExponentialBackoff
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry
from rq.defaults import RQ_KEY_PREFIX

from predictions.redis.topology import ClusterMaster, Master, NamedMaster, SentinelMaster, parse_address

CONNECT_TIMEOUT_SECONDS = 1.0
REPLY_TIMEOUT_SECONDS = 3.0
"""Above the one second for which a worker's wait blocks; below it a frozen server would hold a process for long."""
POOL_WAIT_SECONDS = 2.0
"""How long a command may wait for one of the process's connections; they are all busy only when Redis hangs."""

# What redis-py raises when no answer, or no usable one, came: the same command may succeed later.
LOST = (RedisConnectionError, RedisTimeoutError)
# What a server answers that is not master, or perhaps no more: one that its replicas have left may be a former one.
_NOT_MASTER = ("MOVED", "ASK", "READONLY", "NOREPLICAS", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "UNBLOCKED")
_LATER = (*_NOT_MASTER, "LOADING", "MISCONF", "OOM")


def is_lost(error: BaseException) -> bool:
    """Whether a Redis error means "not now" rather than "never"."""
    return isinstance(error, LOST) or _code(error) in _LATER


def _code(error: BaseException) -> str:
    """The word by which Redis names an error; redis-py takes some of them out of the message."""
    if not isinstance(error, redis.ResponseError):
        return ""
    # Before version 7, Redis wraps what goes wrong inside a script: "ERR Error running script … -READONLY You …"
    wrapped = re.search(r"Error running script.*? -([A-Z]+) ", str(error))
    return wrapped[1] if wrapped else error.status_code or str(error).partition(" ")[0]


class MasterConnection(redis.Connection):
    """A connection to whoever is master when it is made; it is dropped as soon as that is another server.

    Only `_connect` looks for the master, because redis-py connects again in more places than `connect`.
    """

    def __init__(self, *, master: Master, **options: Any) -> None:
        self._master = master
        super().__init__(**options)

    @property
    def _address(self) -> tuple[str, int]:
        return self.host, self.port

    def _connect(self) -> Any:
        self.host, self.port = self._master.address()
        try:
            return super()._connect()
        except OSError:
            self._master.doubt(self._address)
            raise

    def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        if self.is_connected and not self._master.is_current(self._address):
            self.disconnect()
            raise RedisConnectionError("another Redis server became master")
        super().send_packed_command(*args, **kwargs)

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().read_response(*args, **kwargs)
        except LOST:
            self._master.doubt(self._address)
            raise
        except redis.ResponseError as error:
            if (code := _code(error)) not in _NOT_MASTER:
                raise
            self._master.doubt(self._address)
            self.disconnect()
            raise RedisConnectionError(f"Redis answered {code}: {error}") from error


class MasterTLSConnection(MasterConnection, redis.SSLConnection):
    """The same with TLS."""


class Client(redis.Redis):
    """Without item access: Django's templates try `client["connection_pool"]` first, and would ask Redis for a key."""

    def __getitem__(self, name: Any) -> Any:
        raise KeyError(name)


def get_redis() -> redis.Redis:
    """The client every part of this process uses. It connects at its first command."""
    return _client(os.getpid())


@lru_cache(maxsize=1)
def _client(pid: int) -> redis.Redis:
    login = _login(settings.REDIS_PASSWORD)
    seed, master = _master(login)
    pool = redis.BlockingConnectionPool(
        connection_class=MasterTLSConnection if login.pop("ssl", False) else MasterConnection,
        master=master,
        # Not where connections go, but what django-rq tells one Redis from another by, and shows.
        host=seed[0],
        port=seed[1],
        max_connections=max(32, settings.WORKER_CONCURRENCY // 2 + 8),
        timeout=POOL_WAIT_SECONDS,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_timeout=REPLY_TIMEOUT_SECONDS,
        socket_keepalive=True,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 2, supported_errors=(RedisConnectionError,)),
        # A service of one vendor's servers; with it, redis-py would not look whether a pooled connection is still good.
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        **login,
    )
    return Client(connection_pool=pool)


def _master(login: dict[str, Any]) -> tuple[tuple[str, int], Master]:
    """One address that the settings name, and the master as they describe it."""
    if settings.REDIS_SENTINELS:
        sentinels = [parse_address(text, default_port=26379) for text in settings.REDIS_SENTINELS]
        sentinel_login = {**login, "password": settings.REDIS_SENTINEL_PASSWORD or None}
        return sentinels[0], SentinelMaster(
            sentinels, name=settings.REDIS_SENTINEL_MASTER, login=dict(login), sentinel_login=sentinel_login
        )
    servers = [parse_address(text) for text in _addresses()]
    if settings.REDIS_CLUSTER_MODE:
        return servers[0], ClusterMaster(servers, slot=key_slot(f"{RQ_KEY_PREFIX}:".encode()), login=dict(login))
    return servers[0], NamedMaster(servers[0])


def _login(password: str) -> dict[str, Any]:
    """What a client needs to be let in."""
    login: dict[str, Any] = {"password": password or None}
    if settings.REDIS_TLS:
        login |= {
            "ssl": True,
            "ssl_ca_certs": settings.REDIS_TLS_CA_FILE or None,
            "ssl_certfile": settings.REDIS_TLS_CERT_FILE or None,
            "ssl_keyfile": settings.REDIS_TLS_KEY_FILE or None,
        }
    return login


def _addresses() -> list[str]:
    """REDIS_ADDRESS, else that of the embedded server, which `scripts/run` started and left in a file."""
    addresses = [text for text in settings.REDIS_ADDRESS.split(",") if text.strip()]
    if not addresses:
        with contextlib.suppress(OSError):
            addresses = [(Path(settings.EMBEDDED_REDIS_DIR) / "address").read_text()]
    if not addresses:
        raise RedisConnectionError(
            "there is no Redis: set REDIS_ADDRESS=host:port, or use scripts/run, which starts one"
        )
    return addresses


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
