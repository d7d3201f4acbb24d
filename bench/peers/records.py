"""The record that every peer writes: the agent's own table, by SQLAlchemy Core with its documented idioms."""

import json
import os
import threading
import uuid
from datetime import UTC, datetime
from typing import Any

import requests
from sqlalchemy import Boolean, Column, DateTime, Float, Integer, MetaData, String, Table, Text, create_engine, event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import NullPool

DATABASE_URL = os.environ["BENCH_DATABASE_URL"]
PLATFORM_URL = os.environ["BENCH_PLATFORM_URL"]
REDIS_URL = os.environ["BENCH_REDIS_URL"]
POOL_SIZE = 20

tasks = Table(
    "predictions_task",
    MetaData(),
    Column("id", String(64), primary_key=True),
    *(
        Column(name, Text, default="")
        for name in (
            "agent",
            "user_id",
            "model_name",
            "model_version",
            "platform",
            "status",
            "error_info",
            "queue_id",
            "run_id",
            "request_id",
            "traceparent",
            "upstream_id",
            "upstream_cancel",
        )
    ),
    Column("inputs", Text),
    Column("outputs", Text),
    Column("running_time", Float),
    Column("queue_num", Integer),
    Column("attempt", Integer, default=0),
    Column("unreported", Boolean, default=False),
    *(Column(name, DateTime(timezone=True)) for name in ("created_at", "started_at", "ended_at", "updated_at")),
)


def new_record(body: dict[str, Any], status: str) -> dict[str, Any]:
    moment = datetime.now(UTC)
    return {
        "id": str(uuid.uuid4()),
        "agent": "peers",
        "platform": "k8s",
        "model_name": body["model_name"],
        "inputs": json.dumps(body["inputs"]),
        "status": status,
        "created_at": moment,
        "started_at": moment if status == "running" else None,
        "updated_at": moment,
    }


def driver_url(driver: str) -> str:
    """The database's address for a SQLAlchemy driver: `aiosqlite`, `asyncpg`, `psycopg`."""
    _, _, rest = DATABASE_URL.partition("://")
    return f"sqlite+{driver}://{rest}" if "sqlite" in driver else f"postgresql+{driver}://{rest}"


def is_sqlite() -> bool:
    return DATABASE_URL.startswith("sqlite")


def prepare_sqlite(engine: Engine) -> None:
    """WAL and a wait for the write lock, without which several writers fail at once."""

    @event.listens_for(engine, "connect")
    def settings(connection: Any, record: object) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()


def sync_engine(*, pooled: bool = True) -> Engine:
    url = driver_url("pysqlite" if is_sqlite() else "psycopg")
    engine = create_engine(url, pool_size=POOL_SIZE) if pooled else create_engine(url, poolclass=NullPool)
    if is_sqlite():
        prepare_sqlite(engine)
    return engine


def insert(connection: Connection, record: dict[str, Any]) -> None:
    connection.execute(tasks.insert().values(record))


_of_thread = threading.local()


def session() -> requests.Session:
    """The session of the calling thread: threads must not share one."""
    if not hasattr(_of_thread, "session"):
        _of_thread.session = requests.Session()
    return _of_thread.session  # type: ignore[no-any-return]


def run(engine: Engine, task_id: str, body: dict[str, Any]) -> None:
    """Runs a queued task: writes `running`, calls the platform, writes `succeeded`."""
    own = tasks.c.id == task_id
    moment = datetime.now(UTC)
    with engine.begin() as connection:
        connection.execute(
            tasks.update().where(own).values(status="running", started_at=moment, updated_at=moment, attempt=1)
        )
    response = session().post(PLATFORM_URL, json=body, timeout=60)
    response.raise_for_status()
    ended = datetime.now(UTC)
    with engine.begin() as connection:
        connection.execute(
            tasks.update()
            .where(own)
            .values(
                status="succeeded",
                outputs=json.dumps(response.json()),
                running_time=(ended - moment).total_seconds(),
                ended_at=ended,
                updated_at=ended,
            )
        )
