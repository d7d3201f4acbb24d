"""PostgreSQL databases with any number of tasks, which the server fills by itself, and this process at work on them."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import environ
import psycopg
from django.db import connections

from tests.e2e.databases import manage

RARE = 200
"""How many of a day's tasks, its first, are of a model, a platform and a user that were not seen again. Another
model and user had four hours to themselves, many hours ago.
"""

ADD = """
INSERT INTO predictions_task (
    id, agent, user_id, model_name, model_version, platform, status, inputs, outputs, error_info, running_time,
    queue_num, queue_id, attempt, run_id, request_id, upstream_id, upstream_cancel, unreported,
    created_at, started_at, ended_at, updated_at
)
SELECT
    id, agent, user_id, model_name, '2', platform, status, inputs,
    CASE status WHEN 'succeeded' THEN '{"label":"' || repeat(md5(n::text), 8) || '"}' END,
    CASE status WHEN 'failed' THEN 'the platform answered 503 Service Unavailable' ELSE '' END,
    CASE status WHEN 'canceled' THEN NULL ELSE run END,
    3, id, 1, md5(id), request_id, '', '', false,
    submitted, submitted + wait, submitted + wait + run * interval '1 second', submitted + wait
FROM (
    SELECT
        n, run, wait,
        gen_random_uuid()::text AS id,
        CASE WHEN n %% 10 < 9 THEN 'default' ELSE 'other' END AS agent,
        CASE WHEN n <= %(rare)s THEN 'gone' WHEN burst THEN 'batch'
            ELSE 'user-' || floor(5000 * power(r1, 6)) END AS user_id,
        CASE WHEN n <= %(rare)s THEN 'retired' WHEN burst THEN 'nightly'
            ELSE 'model-' || floor(20 * power(r2, 2)) END AS model_name,
        CASE WHEN n <= %(rare)s THEN 'replicate' ELSE 'kserve' END AS platform,
        CASE WHEN r3 < 0.93 THEN 'succeeded' WHEN r3 < 0.98 THEN 'failed' ELSE 'canceled' END AS status,
        '{"inputs":"' || repeat(md5(n::text), 4) || '"}' AS inputs,
        md5('request' || n) AS request_id,
        now() - %(ago)s - (%(rows)s - n) * interval '1 day' / %(rows)s AS submitted
    FROM (
        SELECT n, n BETWEEN 0.25 * %(rows)s AND 0.4 * %(rows)s AS burst,
            random() AS r1, random() AS r2, random() AS r3, 0.05 + random() AS run,
            random() * interval '3 seconds' AS wait
        FROM generate_series(1, %(rows)s) AS n
    ) AS dice
) AS drawn
"""


def fill(url: str, rows: int) -> None:
    """Migrates the database, and adds the tasks of the last day.

    Indexes are made when the rows are there, which takes a third of the time.
    """
    manage("migrate", "--noinput", "--verbosity", "0", DATABASE_URL=url)
    with psycopg.connect(url, autocommit=True) as server:
        indexes = server.execute(
            "SELECT indexname, indexdef FROM pg_indexes"
            " WHERE tablename = 'predictions_task' AND indexname NOT LIKE '%pkey'"
        ).fetchall()
        for name, _ in indexes:
            server.execute(f'DROP INDEX "{name}"')  # type: ignore[arg-type]
        server.execute("SET maintenance_work_mem = '256MB'")
        server.execute("SELECT setseed(0.5)")
        add(server, rows, ago=timedelta(minutes=1))
        for _, definition in indexes:
            server.execute(definition)
        server.execute("VACUUM ANALYZE predictions_task")


def add(server: "psycopg.Connection[Any]", rows: int, *, ago: timedelta) -> None:
    """So many ended tasks, submitted in the day that was over `ago`."""
    psycopg.ClientCursor(server).execute(ADD, {"rows": rows, "rare": RARE, "ago": ago})


def new_database(server_url: str) -> str:
    """An empty database on the server; answers its address."""
    name = f"tasks_{secrets.token_hex(4)}"
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    return f"{server_url.rpartition('/')[0]}/{name}"


@contextmanager
def as_default(url: str) -> Iterator[None]:
    """Inside the block this thread of the agent works on that database."""
    usual = connections["default"]
    connections.settings["own"] = {**connections.settings["default"], **environ.Env.db_url_config(url), "OPTIONS": {}}
    connections["default"] = own = connections.create_connection("own")
    own.alias = "default"
    try:
        yield
    finally:
        own.close()
        connections["default"] = usual
        del connections.settings["own"]
