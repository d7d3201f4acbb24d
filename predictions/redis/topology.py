"""Which Redis server takes our writes: the one the settings name, or the one a cluster or sentinels elected."""

import re
import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

Address = tuple[str, int]

ASK_SECONDS = 1.0
"""How long one server may take to be connected to, and as long again to say who is master."""
SEARCH_SECONDS = 2.0
"""No further server is asked after this."""
ENOUGH_VIEWS = 3
"""The newest of so many is believed: one server alone may have slept through an election."""
FAILURE_STANDS_SECONDS = 0.2
"""How long a search that failed stands for everyone else who needs a connection."""
IDLE_SECONDS = 2.0
"""Whoever sends commands during an election notices it. One that was silent for longer asks before it goes on: no
election takes less than this, and a master that slept through its own takes writes for seconds after it has woken."""


class Master(Protocol):
    """Where connections go."""

    def address(self) -> Address:
        """The master's host and port. Raises redis' ConnectionError while there is none."""

    def is_current(self, address: Address) -> bool:
        """Whether a connection to this address may be used on."""

    def doubt(self, address: Address) -> None:
        """The server there did not answer, or refused as one that is not master."""


class NamedMaster:
    """The one server that the settings name. Behind its name it may change."""

    def __init__(self, address: Address) -> None:
        self._address = address

    def address(self) -> Address:
        return self._address

    def is_current(self, address: Address) -> bool:
        return True

    def doubt(self, address: Address) -> None:
        """There is no other to turn to."""


@dataclass(frozen=True, slots=True)
class View:
    """What one server knows: the master (None: there is none now), since which election, and whom else to ask."""

    epoch: int
    master: Address | None
    servers: tuple[Address, ...] = ()


class ElectedMaster(ABC):
    """Asks the servers it knows until it has found the master, and remembers it until it is doubted."""

    def __init__(self, servers: list[Address], *, login: dict[str, Any], ask_login: dict[str, Any]) -> None:
        """`login` is what a client of the master needs (password, TLS), `ask_login` one of those that are asked."""
        self._named = servers
        self._servers = list(servers)
        self._login = login
        self._ask_login = ask_login
        self._found: Address | None = None
        self._searching = threading.Lock()
        self._failed_at = float("-inf")
        self._failure = ""
        self._used_at = time.monotonic()

    def address(self) -> Address:
        found = self._found
        return found if found is not None else self._search()

    def is_current(self, address: Address) -> bool:
        if time.monotonic() > self._used_at + IDLE_SECONDS:
            self._look_again()
        self._used_at = time.monotonic()
        found = self._found
        return found is None or found == address

    def _look_again(self) -> None:
        with self._searching:
            if time.monotonic() > self._used_at + IDLE_SECONDS:
                with suppress(redis.RedisError):  # nobody tells otherwise
                    self._found = self._find()
                self._used_at = time.monotonic()

    def doubt(self, address: Address) -> None:
        if self._found == address:
            self._found = None

    def _search(self) -> Address:
        """One search at a time: whoever waited for it takes what it found, or fails as it did."""
        with self._searching:
            if self._found is not None:
                return self._found
            if time.monotonic() < self._failed_at + FAILURE_STANDS_SECONDS:
                raise RedisConnectionError(self._failure)
            try:
                found = self._found = self._find()
            except redis.RedisError as error:
                self._failure, self._failed_at = str(error), time.monotonic()
                raise RedisConnectionError(self._failure) from error
            return found

    def _find(self) -> Address:
        newest = max(self._views(), key=lambda view: view.epoch)
        if newest.master is None:
            raise RedisConnectionError("the Redis servers have no master now")
        with _client(newest.master, self._login) as client:
            role = client.role()[0]
        if role != b"master":
            raise RedisConnectionError(f"Redis at {_text(newest.master)} is not the master yet")
        self._remember(newest.master, newest.servers)
        return newest.master

    def _views(self) -> list[View]:
        """What the first servers say that answer. Raises ConnectionError where none does."""
        views: list[View] = []
        silent: dict[Address, str] = {}
        deadline = time.monotonic() + SEARCH_SECONDS
        to_ask = list(self._servers)
        for server in to_ask:  # which grows by those that are named in the answers
            if len(views) == ENOUGH_VIEWS or time.monotonic() > deadline:
                break
            try:
                with _client(server, self._ask_login) as client:
                    view = self._ask(client, server)
            except redis.RedisError as error:
                silent[server] = f"{_text(server)}: {error}"
            else:
                views.append(view)
                to_ask += [other for other in view.servers if other not in to_ask]
        self._servers = sorted(to_ask, key=lambda server: server in silent)
        if not views:
            raise RedisConnectionError(f"no Redis server says who is master: {'; '.join(silent.values())}")
        return views

    def _remember(self, master: Address, servers: tuple[Address, ...]) -> None:
        known = [server for server in self._servers if server in servers or server in self._named]
        # The master is asked last: if it sleeps and is replaced, it is the one that does not know.
        self._servers = sorted(known, key=lambda server: server == master)

    @abstractmethod
    def _ask(self, client: redis.Redis, server: Address) -> View:
        """What the server at that address knows. Raises RedisError."""


class ClusterMaster(ElectedMaster):
    """The owner of one hash slot of a Redis Cluster."""

    def __init__(self, nodes: list[Address], *, slot: int, login: dict[str, Any]) -> None:
        super().__init__(nodes, login=login, ask_login=login)
        self._slot = slot

    def _ask(self, client: redis.Redis, server: Address) -> View:
        nodes = [_Node(name, facts) for name, facts in client.cluster("nodes").items()]
        by_name = bool(self._login.get("ssl"))  # the certificate is for the name
        addresses = {node: node.address(server, by_name=by_name) for node in nodes if not node.is_out}
        owner = next((node for node in nodes if node.owns(self._slot)), None)
        return View(owner.epoch if owner else 0, addresses.get(owner) if owner else None, tuple(addresses.values()))


class _Node:
    """A line of CLUSTER NODES."""

    def __init__(self, name: str, facts: dict[str, Any]) -> None:
        self._name = name
        self._hostname: str = facts["hostname"]
        self._flags = set(facts["flags"].split(","))
        self._slots = [range(int(slots[0]), int(slots[-1]) + 1) for slots in facts["slots"]]
        self.epoch = int(facts["epoch"])

    @property
    def is_out(self) -> bool:
        """Whether the cluster holds it for dead, or does not know where it is."""
        return bool(self._flags & {"fail", "noaddr", "handshake"})

    def owns(self, slot: int) -> bool:
        return "master" in self._flags and any(slot in slots for slots in self._slots)

    def address(self, told_by: Address, *, by_name: bool) -> Address:
        host, _, port = self._name.rpartition(":")
        if by_name and self._hostname:
            host = self._hostname
        return host or told_by[0], int(port)  # a node that has met no other does not know its own host


class SentinelMaster(ElectedMaster):
    """The master that sentinels watch under a name."""

    def __init__(
        self, sentinels: list[Address], *, name: str, login: dict[str, Any], sentinel_login: dict[str, Any]
    ) -> None:
        super().__init__(sentinels, login=login, ask_login=sentinel_login)
        self._name = name

    def _ask(self, client: redis.Redis, server: Address) -> View:
        epoch = int(client.execute_command("SENTINEL MASTER", self._name)["config-epoch"])
        # In a failover this names the new master earlier than the command above does.
        address = client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", self._name)
        return View(epoch, (address[0].decode(), int(address[1])) if address else None)


def parse_address(text: str, *, default_port: int = 6379) -> Address:
    """`host:port`, `host`, or with an IPv6 address in brackets. Raises ValueError."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?", text.strip())
    port = int(match[3] or default_port) if match else 0
    if match is None or not 0 < port < 65536:
        raise ValueError(f"{text.rpartition('@')[2]!r} is not an address")  # before an @ there may be a password
    return match[1] or match[2], port


def _client(server: Address, login: dict[str, Any]) -> redis.Redis:
    return redis.Redis(
        host=server[0],
        port=server[1],
        socket_connect_timeout=ASK_SECONDS,
        socket_timeout=ASK_SECONDS,
        retry=Retry(NoBackoff(), 0),
        protocol=2,  # sentinels of old do not know HELLO
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        **login,
    )


def _text(address: Address) -> str:
    return f"{address[0]}:{address[1]}"
