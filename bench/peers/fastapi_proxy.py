"""FastAPI + httpx + SQLAlchemy: an async proxy that keeps a record, and hands long predictions to Celery."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.concurrency import run_in_threadpool

from bench.peers import celery_tasks
from bench.peers.records import (
    PLATFORM_URL,
    POOL_SIZE,
    driver_url,
    is_sqlite,
    new_record,
    prepare_sqlite,
    tasks,
)

# As in the agent, a statement borrows a connection, a prediction does not.
engine = create_async_engine(driver_url("aiosqlite" if is_sqlite() else "asyncpg"), pool_size=POOL_SIZE, max_overflow=0)
if is_sqlite():
    prepare_sqlite(engine.sync_engine)


class PredictionBody(BaseModel):
    model_name: str
    inputs: dict[str, Any]


@asynccontextmanager
async def lifespan(application: FastAPI) -> AsyncIterator[None]:
    limits = httpx.Limits(max_connections=2000, max_keepalive_connections=200)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:
        application.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/live")
async def live() -> dict[str, str]:
    return {"message": "API OK"}


@app.post("/v1/predict")
async def predict(body: PredictionBody, request: Request) -> dict[str, Any]:
    record = new_record(body.model_dump(), "running")
    async with engine.begin() as connection:
        await connection.execute(tasks.insert().values(record))
    response = await request.app.state.client.post(PLATFORM_URL, json=body.model_dump())
    response.raise_for_status()
    outputs, ended = response.json(), datetime.now(UTC)
    changes = {
        "status": "succeeded",
        "outputs": json.dumps(outputs),
        "running_time": (ended - record["created_at"]).total_seconds(),
        "ended_at": ended,
        "updated_at": ended,
    }
    async with engine.begin() as connection:
        await connection.execute(tasks.update().where(tasks.c.id == record["id"]).values(changes))
    return _task({**record, **changes})


@app.post("/async/v1/predict")
async def submit(body: PredictionBody) -> dict[str, str]:
    record = new_record(body.model_dump(), "pending")
    async with engine.begin() as connection:
        await connection.execute(tasks.insert().values(record))
    await run_in_threadpool(celery_tasks.run_prediction.delay, record["id"], body.model_dump())
    return {"id": record["id"]}


@app.get("/task/{task_id}")
async def read(task_id: str) -> dict[str, Any]:
    async with engine.connect() as connection:
        row = (await connection.execute(tasks.select().where(tasks.c.id == task_id))).mappings().first()
    if row is None:
        raise HTTPException(404)
    return _task(dict(row))


def _task(record: dict[str, Any]) -> dict[str, Any]:
    names = ("id", "model_name", "status", "created_at", "started_at", "ended_at", "platform")
    told = {name: record.get(name) for name in names}
    seconds, outputs = record.get("running_time"), record.get("outputs")
    return {
        **told,
        "running_time": "" if seconds is None else f"{seconds:.6f}s",
        "outputs": json.loads(outputs) if outputs else None,
        "error_info": record.get("error_info", ""),
    }
