"""The database and the Redis that the compared share: same server, each with a database of its own."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import redis

from bench.environment import ROOT
from bench.processes import Process, wait_for
from tests.helpers import postgres
from tests.helpers.ports import free_port

SETTINGS = {"ENV_FILE": os.devnull, "ALLOW_ANONYMOUS": "true", "SECRET_KEY": "only-for-the-benchmark-" + "x" * 40}


class Database:
    """A migrated database of the agent; the peers write to the same table in one of their own."""

    def __init__(self, url: str) -> None:
        self.url = url
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "--noinput", "--verbosity", "0"],
            cwd=ROOT,
            env={**os.environ, **SETTINGS, "DATABASE_URL": url},
            check=True,
        )
        self._connection: Any = self._connect()
        """Stays open: a new one for each look would take more of the cores than what is looked at."""

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

    def statuses(self) -> dict[str, int]:
        return dict(self.execute("SELECT status, count(*) FROM predictions_task GROUP BY status"))


class Stores:
    """What the compared keep their things in."""

    def __init__(self, kind: str, databases: dict[str, Database], redis_port: int) -> None:
        """`kind` is postgresql or sqlite; `databases` has one for the `agent` and one for the `peers`."""
        self.kind = kind
        self.agent, self.peers = databases["agent"], databases["peers"]
        self.redis_port = redis_port

    def clear(self) -> None:
        self.agent.clear()
        self.peers.clear()
        with redis.Redis(port=self.redis_port) as client:
            client.flushall()


@contextmanager
def opened(kind: str) -> Iterator[Stores]:
    """PostgreSQL of DATABASE_URL, where that names one, or a new one; SQLite files; a new Redis."""
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="bench-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        port = free_port()
        command = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(directory)]
        server = stack.enter_context(Process(command, {}))
        wait_for(lambda: _answers(port), 10, "an answer of Redis", server)
        if kind == "sqlite":
            databases = {name: Database(f"sqlite:///{directory}/{name}.sqlite3") for name in ("agent", "peers")}
        else:
            base = stack.enter_context(_postgresql())
            databases = {name: stack.enter_context(_new_database(base, f"bench_{name}")) for name in ("agent", "peers")}
        yield Stores(kind, databases, port)


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
def _new_database(base: str, name: str) -> Iterator[Database]:
    with psycopg.connect(f"{base}/postgres", autocommit=True) as server:
        server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        server.execute(f"CREATE DATABASE {name}")
        try:
            yield Database(f"{base}/{name}")
        finally:
            server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
