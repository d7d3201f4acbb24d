"""A real Redis server that a test starts, kills and freezes, with a password and TLS if it likes."""

import contextlib
import secrets
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from scripts.starting.embedded_redis import find_server
from tests.helpers.ports import is_free
from tests.helpers.waiting import until

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Security:
    """The credentials that the servers require; `certificates` has ca.pem, server.pem and server.key."""

    password: str = ""
    certificates: Path | None = None

    def options(self) -> dict[str, str]:
        found = {"requirepass": self.password, "masterauth": self.password} if self.password else {}
        return found | self.tls_options()

    def tls_options(self) -> dict[str, str]:
        if self.certificates is None:
            return {}
        return {
            "tls-cert-file": str(self.certificates / "server.pem"),
            "tls-key-file": str(self.certificates / "server.key"),
            "tls-ca-cert-file": str(self.certificates / "ca.pem"),
            "tls-replication": "yes",
        }

    def port_options(self, port: int) -> dict[str, str]:
        return {"port": str(port)} if self.certificates is None else {"port": "0", "tls-port": str(port)}

    def client_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"password": self.password or None}
        if self.certificates is not None:
            options |= {
                "ssl": True,
                "ssl_ca_certs": str(self.certificates / "ca.pem"),
                "ssl_certfile": str(self.certificates / "server.pem"),
                "ssl_keyfile": str(self.certificates / "server.key"),
            }
        return options

    def environment(self) -> dict[str, str]:
        found = {"REDIS_PASSWORD": self.password, "REDIS_SENTINEL_PASSWORD": self.password}
        if self.certificates is not None:
            found |= {
                "REDIS_TLS": "true",
                "REDIS_TLS_CA_FILE": str(self.certificates / "ca.pem"),
                "REDIS_TLS_CERT_FILE": str(self.certificates / "server.pem"),
                "REDIS_TLS_KEY_FILE": str(self.certificates / "server.key"),
            }
        return found


@dataclass
class RedisServer:
    """One process with a configuration file and data of its own, which outlive it."""

    directory: Path
    security: Security = field(default_factory=Security)
    options: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    is_sentinel: bool = False

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True)
        self.port = port_with_a_bus()
        options = {
            "bind": HOST,
            "dir": str(self.directory),
            **self.security.options(),
            **self.security.port_options(self.port),
            **self.options,
        }
        self.configuration = self.directory / "redis.conf"
        lines = [f"{name} {value}" for name, value in options.items()] + self.lines
        self.configuration.write_text("\n".join(lines) + "\n")
        self.start()

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def start(self) -> None:
        """Starts the process and waits until it answers."""
        self._is_frozen = False
        command = [*ends_with_its_parent(), find_server(), str(self.configuration)]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *(["--sentinel"] if self.is_sentinel else [])],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self._answers, 90, lambda: f"a Redis server did not start: {self.log()}")

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            log = self.log()
            without_tls = "tls-" in log and "Bad directive" in log
            assert not without_tls, (
                f"{find_server()} is built without TLS: install redis-server (apt install redis-server)"
            )
            raise AssertionError(f"a Redis server ended at once: {log}")
        with contextlib.suppress(redis.ConnectionError, redis.TimeoutError):
            return bool(self.ask("PING"))
        return False

    def log(self) -> str:
        return (self.directory / "log").read_text()[-2000:]

    def ask(self, *command: Any) -> Any:
        """The answer to one command, on a connection of its own. Raises RedisError."""
        with self.client() as client:
            return client.execute_command(*command)

    def client(self) -> redis.Redis:
        return redis.Redis(
            host=HOST,
            port=self.port,
            socket_timeout=2,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
            **self.security.client_options(),
        )

    def is_up(self) -> bool:
        return self.process.poll() is None and not self._is_frozen

    def freeze(self) -> None:
        """It keeps its connections and stops answering."""
        self._is_frozen = True
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._is_frozen = False
        self.process.send_signal(signal.SIGCONT)

    def stop_replicating(self) -> None:
        """Its replicas stay as they are from now on, as ones that lag do; until it is started again."""
        self.ask("ACL", "SETUSER", "default", "-psync", "-sync")
        self.ask("CLIENT", "KILL", "TYPE", "replica")

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def bring_back(self) -> None:
        """After `kill` or `freeze`; without effect on one that is well."""
        if self.process.poll() is None:
            self.thaw()
        else:
            self.start()


def port_with_a_bus() -> int:
    """A free port; the nodes of a cluster also use the one ten thousand above it.

    Both lie below the ports that the system gives to outgoing connections, which may be taken at any moment.
    """
    while True:
        port = 10_000 + secrets.randbelow(12_000)
        if is_free(port) and is_free(port + 10_000):
            return port


def ends_with_its_parent() -> list[str]:
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def one_redis(address: str) -> dict[str, Any]:
    """The settings for a server by itself, whatever `TEST_REDIS` says."""
    return {
        "REDIS_ADDRESS": address,
        "REDIS_CLUSTER_MODE": False,
        "REDIS_SENTINELS": [],
        "REDIS_SENTINEL_MASTER": "",
    }
