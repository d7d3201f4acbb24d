"""Connections of the pool: lending one again costs nothing, and a dead one is not lent."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
import requests
from psycopg_pool import ConnectionPool

from predictions.database import postgresql
from predictions.database.postgresql import BoundedConnection
from predictions.database.prepared import PreparedCursor
from predictions.models import Task
from tests.e2e.databases import Postgres, reachable_here
from tests.e2e.faults import Crowd
from tests.helpers.proxy import Proxy
from tests.helpers.servers import Server
from tests.helpers.slow_platform import SlowPlatform
from tests.helpers.waiting import until

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


@pytest.mark.parametrize(("route", "callers"), [("/v1/predict", 40), ("/async/v1/predict", 4)])
def test_forty_predictions_run_at_once_on_one_connection(
    serve: Callable[..., Server], slow_platform: SlowPlatform, server: Postgres, route: str, callers: int
) -> None:
    """It is held for a statement, not for a prediction."""
    environment = {"DATABASE_URL": server.url, "DATABASE_POOL_SIZE": "1", "WORKER_CONCURRENCY": "40"}
    environment |= {"MAX_QUEUE_SIZE": "10000", **slow_platform.environment()}
    with reachable_here(server.url):
        web, _ = serve("web", **environment), serve("worker", **environment)
        with Crowd(web.url, callers=callers, route=route, pause_seconds=0.1, sleep=3) as crowd:
            until(lambda: Task.objects.using("own").filter(status="running").count() == 40)
        until(lambda: not Task.objects.using("own").unfinished().exists())
    assert crowd.refused == {}


def test_a_process_opens_no_more_connections_than_its_pool_may_have(
    serve: Callable[..., Server], server: Postgres, proxy: Proxy
) -> None:
    proxy.delay_seconds = 0.1
    with reachable_here(server.url), ThreadPoolExecutor(12) as pool:
        web = serve("web", DATABASE_URL=f"postgres://agent@{proxy.address}/postgres", DATABASE_POOL_SIZE="3")
        answers = pool.map(lambda _: requests.get(f"{web.url}/task/nobody", timeout=60).status_code, range(60))
        assert set(answers) == {404}
    assert proxy.connections == 3


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_after_a_restart_of_the_server_no_dead_connection_is_lent(pool: Pool, server: Postgres, mode: str) -> None:
    before = ask(pool)
    server.restart(mode)
    assert ask(pool) != before


@pytest.fixture
def table(pool: Pool) -> str:
    """A table with a column of each type that statements of predictions have."""
    with pool.connection() as lent:
        lent.execute("CREATE TABLE kinds (t TEXT, i SMALLINT, f FLOAT8, b BOOLEAN, m TIMESTAMPTZ)")
    return "kinds"


VALUES = ["ä'\\ %s $1", 7, 0.1, True, datetime(2026, 11, 28, 1, 2, 3, 4, UTC)]


@pytest.mark.parametrize("values", [VALUES, [None] * 5, ["", -1, 1e300, False, datetime(1, 1, 1, tzinfo=UTC)]])
def test_what_a_prepared_statement_is_given_arrives(pool: Pool, table: str, values: list[Any]) -> None:
    with pool.connection() as lent:
        cursor = PreparedCursor(lent)
        cursor.execute(f"INSERT INTO {table} VALUES (%s, %s, %s, %s, %s)", values)
        assert cursor.rowcount == 1
        assert lent.execute(f"SELECT * FROM {table}").fetchall() == [tuple(values)]
        cursor.execute(f"UPDATE {table} SET i = %s WHERE t = %s", [1, "nobody"])
        assert cursor.rowcount == 0


@pytest.mark.parametrize("values", [VALUES, [None] * 5])
def test_what_a_prepared_statement_returns_arrives(pool: Pool, table: str, values: list[Any]) -> None:
    with pool.connection() as lent:
        cursor = PreparedCursor(lent)
        cursor.execute(f"INSERT INTO {table} VALUES (%s, %s, %s, %s, %s) RETURNING *", values)
        assert cursor.fetchall() == [tuple(values)]
        cursor.execute(f"UPDATE {table} SET i = %s WHERE t = %s RETURNING i", [1, "nobody"])
        assert cursor.fetchall() == []


def test_a_statement_is_prepared_once_a_connection(pool: Pool, table: str, proxy: Proxy) -> None:
    with pool.connection() as lent:
        cursor = PreparedCursor(lent)
        cursor.execute(f"INSERT INTO {table} (t) VALUES (%s)", ["first"])
        before = proxy.requests
        for _ in range(10):
            cursor.execute(f"INSERT INTO {table} (t) VALUES (%s)", ["again"])
        assert proxy.requests - before == 10
        assert lent.execute("SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'agent_%'").fetchone() == (1,)


def test_a_session_that_is_another_one_suddenly_is_told_its_statements_again(pool: Pool, table: str) -> None:
    """As behind a pooler that gives each transaction to whichever session is free."""
    insert = f"INSERT INTO {table} (t) VALUES (%s)"
    with pool.connection() as lent:
        PreparedCursor(lent).execute(insert, ["before"])
        lent.execute("DEALLOCATE ALL")
        PreparedCursor(lent).execute(insert, ["forgotten here"])
        lent.prepared.clear()
        PreparedCursor(lent).execute(insert, ["known there"])
        assert lent.execute(f"SELECT count(*) FROM {table}").fetchone() == (3,)


def test_several_statements_are_one_round_trip_and_one_transaction(pool: Pool, table: str, proxy: Proxy) -> None:
    insert = f"INSERT INTO {table} (i, m) VALUES (%s, now()) RETURNING i"
    update = f"UPDATE {table} SET t = %s WHERE i > %s"
    with pool.connection() as lent:
        cursor = PreparedCursor(lent)
        cursor.execute_batch([(insert, [0]), (update, ["seen", 0])])
        before = proxy.requests
        answers = cursor.execute_batch([(insert, [1]), (insert, [2]), (update, ["seen", 0]), (insert, [3])])
        assert proxy.requests - before == 1
        assert answers == [(1, [(1,)]), (1, [(2,)]), (2, []), (1, [(3,)])]
        begun = lent.execute(f"SELECT count(*) FROM {table} WHERE i > 0 GROUP BY m").fetchall()
        assert begun == [(3,)]


def test_of_several_statements_none_is_done_where_one_is_wrong(pool: Pool, table: str) -> None:
    insert = f"INSERT INTO {table} (i) VALUES (%s)"
    with pool.connection() as lent:
        cursor = PreparedCursor(lent)
        with pytest.raises(psycopg.DataError, match="smallint"):
            cursor.execute_batch([(insert, [1]), (insert, [2**20]), (insert, [3])])
        with pytest.raises(psycopg.DataError, match="NUL"):
            cursor.execute_batch([(insert, [1]), (f"INSERT INTO {table} (t) VALUES (%s)", ["\0"])])
        assert lent.execute(f"SELECT * FROM {table}").fetchall() == []
        assert cursor.execute_batch([(insert, [1])]) == [(1, [])]
        cursor.execute(insert, [2])


def test_several_statements_that_are_large_both_ways_do_not_wait_for_each_other(pool: Pool, table: str) -> None:
    text = "x" * 1_000_000
    with pool.connection() as lent:
        insert = f"INSERT INTO {table} (t) VALUES (%s) RETURNING t"
        answers = PreparedCursor(lent).execute_batch([(insert, [text])] * 32)
    assert answers == [(1, [(text,)])] * 32


def test_several_statements_are_told_again_to_a_session_that_is_another_one_suddenly(pool: Pool, table: str) -> None:
    insert = f"INSERT INTO {table} (t) VALUES (%s)"
    with pool.connection() as lent:
        PreparedCursor(lent).execute(insert, ["before"])
        lent.execute("DEALLOCATE ALL")
        assert PreparedCursor(lent).execute_batch([(insert, ["a"]), (insert, ["b"])]) == [(1, [])] * 2
        assert lent.execute(f"SELECT count(*) FROM {table}").fetchone() == (3,)


def test_a_connection_that_breaks_off_amid_several_statements_is_not_lent_again(pool: Pool, table: str) -> None:
    insert = f"INSERT INTO {table} (t) VALUES (%s)"
    end_it = "SELECT count(pg_terminate_backend(pg_backend_pid())) FROM (SELECT %s::text) AS given"
    with pool.connection() as lent, pytest.raises(psycopg.OperationalError):
        PreparedCursor(lent).execute_batch([(insert, ["a"]), (end_it, ["now"])])
    with pool.connection() as lent:
        assert lent.execute(f"SELECT * FROM {table}").fetchall() == []


@pytest.mark.parametrize(
    ("values", "error"),
    [(["a\0b"], psycopg.DataError), (["\ud800"], UnicodeEncodeError), (["x" * 9], psycopg.DataError)],
)
def test_what_postgresql_does_not_take_is_an_error_and_the_connection_goes_on(
    pool: Pool, values: list[Any], error: type[Exception]
) -> None:
    with pool.connection() as lent:
        lent.execute("CREATE TABLE short (t VARCHAR(8) UNIQUE)")
        cursor = PreparedCursor(lent)
        with pytest.raises(error):
            cursor.execute("INSERT INTO short VALUES (%s)", values)
        cursor.execute("INSERT INTO short VALUES (%s)", ["fits"])
        with pytest.raises(psycopg.IntegrityError):
            cursor.execute("INSERT INTO short VALUES (%s)", ["fits"])
        assert lent.execute("SELECT t FROM short").fetchall() == [("fits",)]
