"""The database server and the Redis that all contestants share; each contestant has its own database."""

import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import redis

from bench.environment import Checkout
from bench.processes import Process, cpu_seconds, wait_for
from tests.helpers import postgres
from tests.helpers.ports import free_port


class Database:
    """A database with the tables of one checkout of the agent."""

    def __init__(self, url: str, checkout: Checkout) -> None:
        """Migrates it. Raises CalledProcessError."""
        self.url = url
        subprocess.run(
            [str(checkout.programs / "python"), "manage.py", "migrate", "--noinput", "--verbosity", "0"],
            cwd=checkout.directory,
            env={**checkout.environment(), "DATABASE_URL": url},
            check=True,
        )
        # It stays open: to connect for each query would cost more CPU than the query.
        self._connection: Any = self._connect()

    def _connect(self) -> Any:
        if self.is_sqlite:
            return sqlite3.connect(self.url.removeprefix("sqlite:///"), timeout=30, isolation_level=None)
        return psycopg.connect(self.url, autocommit=True)

    @property
    def is_sqlite(self) -> bool:
        return self.url.startswith("sqlite")

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Runs a statement and commits; the rows, if it gives any."""
        cursor = self._connection.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []

    def clear(self) -> None:
        self.execute("DELETE FROM predictions_task" if self.is_sqlite else "TRUNCATE predictions_task CASCADE")

    def has_unfinished(self) -> bool:
        return bool(self.execute("SELECT 1 FROM predictions_task WHERE status IN ('pending', 'running') LIMIT 1"))

    def server_pid(self) -> int | None:
        """The process id of PostgreSQL's postmaster; None on SQLite. Raises SystemExit if it runs elsewhere."""
        if self.is_sqlite:
            return None
        backend = self.execute("SELECT pg_backend_pid()")[0][0]
        try:
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{backend}/status").read_text().splitlines())
        except OSError:
            status = {}
        if status.get("Name") != "postgres":
            raise SystemExit("PostgreSQL must run on this machine: the benchmark counts the CPU time of its processes")
        return int(status["PPid"])

    def statuses(self) -> dict[str, int]:
        return dict(self.execute("SELECT status, count(*) FROM predictions_task GROUP BY status"))


@dataclass(frozen=True)
class Stores:
    """Databases by name, a Redis, and a directory for files that end with the benchmark."""

    kind: str
    """postgresql or sqlite"""
    databases: Mapping[str, Database]
    redis: Process
    redis_port: int
    directory: Path

    @property
    def agent(self) -> Database:
        return self.databases["agent"]

    @property
    def peers(self) -> Database:
        return self.databases["peers"]

    def clear(self) -> None:
        """Deletes all tasks and everything in Redis."""
        for database in self.databases.values():
            database.clear()
        with redis.Redis(port=self.redis_port) as client:
            client.flushall()

    def cpu_seconds(self) -> float:
        """CPU time of Redis and of the PostgreSQL server."""
        return self.redis.cpu_seconds() + self.server_cpu_seconds()

    def server_cpu_seconds(self) -> float:
        """CPU time of the PostgreSQL server; 0 for SQLite, which has no process of its own."""
        server = next(iter(self.databases.values())).server_pid()
        return cpu_seconds(server) if server else 0.0


@contextmanager
def opened(kind: str) -> Iterator[Stores]:
    """A new Redis, and a new database for the agent and one for its peers.

    `postgresql` uses the server of DATABASE_URL, or starts one; `sqlite` uses files.
    """
    checkouts = {"agent": Checkout(), "peers": Checkout()}
    with ExitStack() as stack:
        directory = stack.enter_context(_directory())
        databases = stack.enter_context(_databases(kind, directory, checkouts))
        yield Stores(kind, databases, *stack.enter_context(_redis(directory)), directory)


@contextmanager
def opened_apart(kind: str, checkouts: Mapping[str, Checkout]) -> Iterator[dict[str, Stores]]:
    """For each checkout a new Redis and a new database on one server; agents of all of them may run at once."""
    with ExitStack() as stack:
        databases = stack.enter_context(_databases(kind, stack.enter_context(_directory()), checkouts))
        opened_stores = {}
        for name, database in databases.items():
            directory = stack.enter_context(_directory())
            server, port = stack.enter_context(_redis(directory))
            opened_stores[name] = Stores(kind, {"agent": database}, server, port, directory)
        yield opened_stores


@contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextmanager
def _redis(directory: Path) -> Iterator[tuple[Process, int]]:
    """A new server and its port."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(directory)]
    with Process(command, {}) as server:
        wait_for(lambda: _answers(port), 10, "an answer of Redis", server)
        yield server, port


@contextmanager
def _databases(kind: str, directory: Path, checkouts: Mapping[str, Checkout]) -> Iterator[dict[str, Database]]:
    if kind == "sqlite":
        yield {name: Database(f"sqlite:///{directory}/{name}.sqlite3", each) for name, each in checkouts.items()}
        return
    with ExitStack() as stack:
        base = stack.enter_context(_postgresql())
        yield {
            name: stack.enter_context(_new_database(base, f"bench_{name.lower()}", each))
            for name, each in checkouts.items()
        }


def _answers(port: int) -> bool:
    try:
        with redis.Redis(port=port) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


@contextmanager
def _postgresql() -> Iterator[str]:
    """The address of a server, without a database's name."""
    if os.environ.get("DATABASE_URL", "").startswith("postgres"):
        yield os.environ["DATABASE_URL"].rpartition("/")[0]
        return
    directory = Path(tempfile.mkdtemp(prefix="bench-postgres-"))
    try:
        yield postgres.start(directory).rpartition("/")[0]
    finally:
        postgres.stop(directory)
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _new_database(base: str, name: str, checkout: Checkout) -> Iterator[Database]:
    with psycopg.connect(f"{base}/postgres", autocommit=True) as server:
        server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        server.execute(f"CREATE DATABASE {name}")
        try:
            yield Database(f"{base}/{name}", checkout)
        finally:
            server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
