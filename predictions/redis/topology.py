"""Finds the Redis server that takes our writes: the one that sentinels watch, or the owner of a Cluster's hash slot."""

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry
from redis.sentinel import Sentinel

from predictions.redis.addresses import Address

Server = TypeVar("Server")

ASK_SECONDS = 1.0
"""How long to wait for a connection to one sentinel or node, and as long again for its answer."""
SEARCH_SECONDS = 2.0
"""After this time a search asks no more servers."""
ENOUGH_VIEWS = 2
"""A host that was frozen or cut off has an old view, and so may a sentinel on it. A second host has the new one."""
RESULT_STANDS_SECONDS = 0.2
"""How long a search's result or failure is valid for other threads."""

# The options of a client that asks a server who is master; a password and TLS are added.
ASK_OPTIONS: dict[str, Any] = {
    "socket_connect_timeout": ASK_SECONDS,
    "socket_timeout": ASK_SECONDS,
    "retry": Retry(NoBackoff(), 0),
    "protocol": 2,  # old sentinels do not know HELLO
    "maint_notifications_config": MaintNotificationsConfig(enabled=False),
}


class MasterSearch:
    """Runs one search at a time. Threads that wait for it, or ask a moment later, share its result."""

    def __init__(self, search: Callable[[], Address], options: dict[str, Any]) -> None:
        self._search = search
        self._options = options
        self._searching = threading.Lock()
        self._result: Address | str = ""
        self._ended_at = float("-inf")

    def __call__(self) -> Address:
        """The master's host and port. Raises redis' ConnectionError if there is none."""
        with self._searching:
            if time.monotonic() > self._ended_at + RESULT_STANDS_SECONDS:
                try:
                    host, port = self._search()
                    with redis.Redis(host=host, port=port, **self._options) as client:
                        if client.role()[0] != b"master":
                            raise redis.ConnectionError(f"Redis at {host}:{port} is not the master yet")
                    self._result = host, port
                except redis.RedisError as error:
                    self._result = str(error)
                self._ended_at = time.monotonic()
            if isinstance(self._result, str):
                raise redis.ConnectionError(self._result)
            return self._result


class View(NamedTuple):
    """The last election that a server has heard of, and the master since then, or None while there is no master."""

    epoch: int
    master: Address | None


def newest_master(servers: list[Server], ask: Callable[[Server], View]) -> Address:
    """Asks until two servers have answered, and returns the master in the newer view.

    Moves servers that do not answer to the end of the list. `ask` may add servers to the list. Raises redis'
    ConnectionError if there is no master, or no server answers.
    """
    views: list[View] = []
    errors: dict[Server, str] = {}
    deadline = time.monotonic() + SEARCH_SECONDS
    for server in servers:
        if len(views) == ENOUGH_VIEWS or time.monotonic() > deadline:
            break
        try:
            views.append(ask(server))
        except redis.RedisError as error:
            errors[server] = str(error)
    servers.sort(key=errors.__contains__)
    if not views:
        raise redis.ConnectionError(f"no Redis server says who is master: {'; '.join(errors.values())}")
    newest = max(views, key=lambda view: (view.epoch, view.master is not None))
    if newest.master is None:
        raise redis.ConnectionError("the Redis servers have no master now")
    return newest.master


class NewestSentinel(Sentinel):
    """redis-py's Sentinel believes the first sentinel that answers. This one believes the newest of two."""

    def discover_master(self, service_name: str) -> Address:
        def ask(sentinel: redis.Redis) -> View:
            state: dict[str, Any] = sentinel.sentinel_master(service_name)  # type: ignore[assignment]
            is_well = self.check_master_state(state, service_name)
            return View(state["config-epoch"], (state["ip"], state["port"]) if is_well else None)

        return newest_master(self.sentinels, ask)


class SlotOwner:
    """Finds the owner of one hash slot of a Redis Cluster. It learns the other nodes from those that it is given."""

    def __init__(self, nodes: list[Address], *, slot: int, options: dict[str, Any]) -> None:
        self._given = nodes
        self._nodes = list(nodes)
        self._members: set[Address] = set()
        self._slot = slot
        self._options = options

    def find(self) -> Address:
        """The owner's host and port. Raises redis' ConnectionError if there is none, or no node answers."""
        self._nodes = [node for node in self._nodes if node in self._given or node in self._members]
        return newest_master(self._nodes, self._ask)

    def _ask(self, node: Address) -> View:
        with redis.Redis(host=node[0], port=node[1], **self._options) as client:
            lines = client.cluster("nodes")
        view, self._members = View(0, None), set()
        for name, line in lines.items():
            host, _, port = name.rpartition(":")
            if self._options.get("ssl"):  # the certificate is for the hostname
                host = line["hostname"] or host
            address = (host or node[0], int(port))  # a node that has met no other does not know its own host
            flags = set(line["flags"].split(","))
            is_up = not flags & {"fail", "noaddr", "handshake"}
            if is_up:
                self._members.add(address)
            if "master" in flags and any(int(slots[0]) <= self._slot <= int(slots[-1]) for slots in line["slots"]):
                view = View(int(line["epoch"]), address if is_up else None)
        self._nodes += sorted(self._members.difference(self._nodes))
        return view
