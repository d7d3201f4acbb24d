"""Reads the facts about the Redis server that matter to a queue."""

import time
from dataclasses import dataclass

from predictions.redis.connections import get_redis
from predictions.redis.errors import redis_errors


@dataclass(frozen=True, slots=True)
class Server:
    """The master that this process uses. Memory in bytes (`memory_limit` 0: none), times in seconds."""

    address: str
    version: str
    mode: str
    """`standalone`, `cluster` or `sentinel`."""
    role: str
    """`master`, or `slave`, as Redis writes it."""
    replicas: int
    appends: bool
    """Whether every write goes to its append-only file."""
    is_saved: bool
    """Whether its last write to disk went well."""
    memory: int
    memory_limit: int
    eviction: str
    """`maxmemory-policy`: which keys it evicts when memory is full."""
    cluster_is_well: bool
    seconds_ahead: float
    """How far its clock is ahead of this host's."""
    answers_in: float


def server() -> Server:
    """Asks the server. Raises QueueUnavailable."""
    with redis_errors():
        client = get_redis()
        said = client.info()
        asked_at = time.time()
        seconds, microseconds = client.time()
        answered_at = time.time()
        is_cluster = said.get("redis_mode") == "cluster"
        cluster = client.cluster("info") if is_cluster else {}
        connection = client.connection_pool.get_connection()
        try:
            address = f"{connection.host}:{connection.port}"
        finally:
            client.connection_pool.release(connection)
    return Server(
        address=address,
        version=str(said.get("redis_version", "")),
        mode=str(said.get("redis_mode", "standalone")),
        role=str(said.get("role", "master")),
        replicas=int(said.get("connected_slaves", 0)),
        appends=bool(said.get("aof_enabled")),
        is_saved="err" not in (said.get("aof_last_write_status"), said.get("rdb_last_bgsave_status")),
        memory=int(said.get("used_memory", 0)),
        memory_limit=int(said.get("maxmemory", 0)),
        eviction=str(said.get("maxmemory_policy", "")),
        cluster_is_well=cluster.get("cluster_state", "ok") == "ok",
        seconds_ahead=seconds + microseconds / 1e6 - (asked_at + answered_at) / 2,
        answers_in=answered_at - asked_at,
    )
