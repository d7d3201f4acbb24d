"""Real Redis servers that belong together: one alone, a Cluster of six, or one with replicas and sentinels.

`start(kind, directory)` returns a topology, whose `environment()` has the agent's settings for it.
"""

import contextlib
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

from tests.helpers.redis_servers import HOST, RedisServer, Security
from tests.helpers.waiting import until

DOWN_AFTER_MS = 2000
"""How long a master is silent until the others hold it for dead."""
MASTER_NAME = "agents"
SLOTS = 16384
AGENT_SLOT = key_slot(b"{rq}")


class NoMaster(Exception):
    """An election is under way."""


class Topology(ABC):
    """Servers that belong together."""

    def __init__(self, directory: Path, security: Security) -> None:
        self.directory = directory
        self.security = security
        self.servers: list[RedisServer] = []

    def environment(self) -> dict[str, str]:
        """The settings of an agent that uses it."""
        kinds = ("REDIS_ADDRESS", "REDIS_CLUSTER_MODE", "REDIS_SENTINELS", "REDIS_SENTINEL_MASTER")
        return {
            **dict.fromkeys(kinds, ""),
            "REDIS_CLUSTER_MODE": "false",
            **self.security.environment(),
            **self.where(),
        }

    @abstractmethod
    def where(self) -> dict[str, str]:
        """The settings that say where it is."""

    @abstractmethod
    def master(self) -> RedisServer:
        """The server that takes the agent's writes now. Raises NoMaster."""

    @abstractmethod
    def is_well(self) -> bool:
        """Whether it would outlive the loss of its master now."""

    def wait_until_well(self) -> None:
        until(self.is_well, 90, lambda: f"it does not become well: {[server.log() for server in self.servers]}")

    def wait_until_replaced(self, master: RedisServer) -> None:
        def is_replaced() -> bool:
            with contextlib.suppress(NoMaster):
                return self.master() is not master
            return False

        until(is_replaced, 90)

    def heal(self) -> None:
        """Restarts killed or frozen servers, and waits until the topology is healthy."""
        for server in self.servers:
            server.bring_back()
        self.wait_until_well()

    def stop(self) -> None:
        for server in self.servers:
            server.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _start(self, name: str, **options: Any) -> RedisServer:
        server = RedisServer(self.directory / name, self.security, **options)
        self.servers.append(server)
        return server


class Single(Topology):
    def __init__(self, directory: Path, security: Security) -> None:
        super().__init__(directory, security)
        self._start("redis", options={"appendonly": "yes", "save": '""'})

    def where(self) -> dict[str, str]:
        return {"REDIS_ADDRESS": self.servers[0].address}

    def master(self) -> RedisServer:
        return self.servers[0]

    def is_well(self) -> bool:
        return bool(self.servers[0].ask("PING"))


class Cluster(Topology):
    """Three masters, and a replica of each."""

    def __init__(self, directory: Path, security: Security) -> None:
        super().__init__(directory, security)
        options = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": str(DOWN_AFTER_MS),
            "appendonly": "yes",
            "save": '""',
            "repl-diskless-sync-delay": "0",
        }
        if security.certificates is not None:
            options["tls-cluster"] = "yes"
        for number in range(6):
            self._start(f"node-{number}", options=options)
        self._join()

    def _join(self) -> None:
        masters = self.servers[:3]
        # Few keys are the first one's but the agent's: a command on any other key is refused there.
        borders = (0, 2 * AGENT_SLOT, SLOTS // 2, SLOTS)
        for number, node in enumerate(self.servers):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            self.servers[0].ask("CLUSTER", "MEET", HOST, node.port)
        for number, master in enumerate(masters):
            master.ask("CLUSTER", "ADDSLOTS", *range(borders[number], borders[number + 1]))
        until(lambda: all(len(node.ask("CLUSTER NODES")) == 6 for node in self.servers), 90)
        for replica, master in zip(self.servers[3:], masters, strict=True):
            replica.ask("CLUSTER", "REPLICATE", master.ask("CLUSTER", "MYID"))
        self.wait_until_well()

    def where(self) -> dict[str, str]:
        seeds = ",".join(server.address for server in self.servers[:3])
        return {"REDIS_CLUSTER_MODE": "true", "REDIS_ADDRESS": seeds}

    def masters(self) -> list[RedisServer]:
        """Those that are up: one that has just come back may not know yet that it is master no more."""
        return [server for server in self.servers if server.is_up() and server.ask("ROLE")[0] == "master"]

    def master(self) -> RedisServer:
        for server in self.masters():
            (mine,) = [node for node in server.ask("CLUSTER NODES").values() if "myself" in node["flags"]]
            if any(int(slots[0]) <= AGENT_SLOT <= int(slots[-1]) for slots in mine["slots"]):
                return server
        raise NoMaster

    def is_well(self) -> bool:
        with contextlib.suppress(redis.RedisError):
            for server in self.servers:
                state = server.ask("CLUSTER INFO")
                nodes = server.ask("CLUSTER NODES").values()
                if state["cluster_state"] != "ok" or any("fail" in node["flags"] for node in nodes):
                    return False
                role = server.ask("ROLE")
                if role[0] == "master" and not role[2] or role[0] == "slave" and role[3] != "connected":
                    return False
            return True
        return False

    def move_slot(self) -> float:
        """Gives the agent's slot with its keys to another master, as redis-cli does; the seconds it took."""
        began = time.monotonic()
        source = self.master()
        target = next(server for server in self.masters() if server is not source)
        source_id, target_id = source.ask("CLUSTER", "MYID"), target.ask("CLUSTER", "MYID")
        target.ask("CLUSTER", "SETSLOT", AGENT_SLOT, "IMPORTING", source_id)
        source.ask("CLUSTER", "SETSLOT", AGENT_SLOT, "MIGRATING", target_id)
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", AGENT_SLOT, 100):
            source.ask("MIGRATE", HOST, target.port, "", 0, 5000, "REPLACE", "KEYS", *keys)
        for server in (target, source):
            server.ask("CLUSTER", "SETSLOT", AGENT_SLOT, "NODE", target_id)
        return time.monotonic() - began

    def stray_keys(self) -> dict[str, int]:
        """How many keys each master holds that does not own the agent's slot."""
        owner = self.master()
        counts = {server.address: int(server.ask("DBSIZE")) for server in self.masters() if server is not owner}
        return {address: count for address, count in counts.items() if count}


class Sentinels(Topology):
    """A master with two replicas, and three sentinels that watch them."""

    def __init__(self, directory: Path, security: Security) -> None:
        super().__init__(directory, security)
        options = {"appendonly": "yes", "save": '""', "repl-diskless-sync-delay": "0"}
        first = self._start("redis-0", options=options)
        for number in (1, 2):
            self._start(f"redis-{number}", options={**options, "replicaof": f"{HOST} {first.port}"})
        self.data = list(self.servers)
        watch = [
            f"sentinel monitor {MASTER_NAME} {HOST} {first.port} 2",
            f"sentinel down-after-milliseconds {MASTER_NAME} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {MASTER_NAME} 10000",
        ]
        if security.password:
            watch.append(f"sentinel auth-pass {MASTER_NAME} {security.password}")
        until(lambda: len(first.ask("ROLE")[2]) == 2, 90)
        for number in range(3):
            self._start(f"sentinel-{number}", lines=watch, is_sentinel=True)
        self.sentinels = self.servers[3:]
        self.wait_until_well()

    def where(self) -> dict[str, str]:
        return {
            "REDIS_SENTINELS": ",".join(server.address for server in self.sentinels),
            "REDIS_SENTINEL_MASTER": MASTER_NAME,
        }

    def master(self) -> RedisServer:
        sentinel = next(server for server in self.sentinels if server.is_up())
        _, port = sentinel.ask("SENTINEL GET-MASTER-ADDR-BY-NAME", MASTER_NAME)
        (found,) = [server for server in self.data if server.port == int(port)]
        return found

    def is_well(self) -> bool:
        with contextlib.suppress(redis.RedisError):
            views = [sentinel.ask("SENTINEL MASTER", MASTER_NAME) for sentinel in self.sentinels]
            roles = [server.ask("ROLE")[0] for server in self.data]
            return (
                len({view["port"] for view in views}) == 1
                and all(view["num-other-sentinels"] == 2 and view["num-slaves"] >= 2 for view in views)
                and not any(view["is_sdown"] or view["is_odown"] for view in views)
                and sorted(roles) == ["master", "slave", "slave"]
                and len(self.master().ask("ROLE")[2]) == 2
            )
        return False


KINDS: dict[str, type[Topology]] = {"single": Single, "cluster": Cluster, "sentinel": Sentinels}


def start(kind: str, directory: Path, *, security: Security | None = None) -> Topology:
    """Starts the servers of a kind in a directory of theirs, and waits until they are one."""
    return KINDS[kind](directory, security or Security())


@contextlib.contextmanager
def running(kind: str, directory: Path, *, security: Security | None = None) -> Iterator[Topology]:
    topology = start(kind, directory, security=security)
    try:
        yield topology
    finally:
        topology.stop()
