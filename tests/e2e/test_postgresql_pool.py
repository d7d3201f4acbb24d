"""Connections of the pool: lending one again costs nothing, and a dead one is not lent."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg_pool import ConnectionPool

from predictions.database import postgresql
from predictions.database.postgresql import BoundedConnection
from tests.e2e.databases import Postgres
from tests.proxy import Proxy

pytestmark = pytest.mark.slow

Pool = ConnectionPool[BoundedConnection]


@pytest.fixture
def server() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.close()


@pytest.fixture
def proxy(server: Postgres) -> Iterator[Proxy]:
    proxy = Proxy(server.url.partition("@")[2].partition("/")[0])
    yield proxy
    proxy.close()


@pytest.fixture
def pool(proxy: Proxy) -> Iterator[Pool]:
    """As Django makes it (CONN_HEALTH_CHECKS), with one connection."""
    with ConnectionPool(
        f"postgresql://agent@{proxy.address}/postgres",
        connection_class=BoundedConnection,
        kwargs={"autocommit": True, "prepare_threshold": None},
        min_size=1,
        max_size=1,
        timeout=20,
        check=ConnectionPool.check_connection,
    ) as pool:
        yield pool


def ask(pool: Pool) -> int:
    """One statement on a borrowed connection: which session answered it."""
    with pool.connection() as lent:
        row = lent.execute("SELECT pg_backend_pid()").fetchone()
        assert row
        return int(row[0])


def test_a_statement_on_a_borrowed_connection_is_one_round_trip(pool: Pool, proxy: Proxy) -> None:
    session = ask(pool)
    before = proxy.requests
    assert {ask(pool) for _ in range(10)} == {session}
    assert proxy.requests - before == 10


def test_a_connection_that_was_not_used_for_long_is_asked_first(
    pool: Pool, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(pool)
    monkeypatch.setattr(postgresql, "TRUSTED_SECONDS", 0.0)
    before = proxy.requests
    ask(pool)
    assert proxy.requests - before == 2


def test_a_connection_reads_the_servers_clock_once_a_minute(
    pool: Pool, proxy: Proxy, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.DATABASE_TIMEOUT = 7
    ask(pool)
    with pool.connection() as lent:
        before = proxy.requests
        given_up_at = [lent.given_up_at() for _ in range(10)]
        assert all(abs(moment - time.time() - 7) < 1 for moment in given_up_at)
        assert proxy.requests - before == 1
        monkeypatch.setattr(postgresql, "CLOCK_SECONDS", 0.0)
        lent.given_up_at()
        assert proxy.requests - before == 2


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_after_a_restart_of_the_server_no_dead_connection_is_lent(pool: Pool, server: Postgres, mode: str) -> None:
    before = ask(pool)
    server.restart(mode)
    assert ask(pool) != before
