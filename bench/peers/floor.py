"""The floor: the work of a sync prediction on uvicorn, aiohttp and psycopg's pool, without a framework.

It validates nothing and handles no errors: an upper bound for the agent's speed.
"""

import os
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import aiohttp
import orjson
from psycopg_pool import AsyncConnectionPool

PLATFORM_URL = os.environ["BENCH_PLATFORM_URL"]
POOL_SIZE = 20
INSERT = """
INSERT INTO predictions_task (id, agent, user_id, model_name, model_version, platform, status, inputs, error_info,
  queue_num, queue_id, attempt, run_id, request_id, traceparent, upstream_id, upstream_cancel, unreported,
  created_at, started_at, updated_at)
VALUES (%s, 'peers', '', %s, '', 'k8s', 'running', %s, '', 0, '', 0, '', '', '', '', '', false, %s, %s, %s)
"""
UPDATE = """
UPDATE predictions_task SET status = 'succeeded', outputs = %s, running_time = %s, ended_at = %s, updated_at = %s
WHERE id = %s
"""

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

pool = AsyncConnectionPool(
    os.environ["BENCH_DATABASE_URL"], min_size=POOL_SIZE, open=False, kwargs={"autocommit": True}
)
session: aiohttp.ClientSession


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """An ASGI application: POST /v1/predict; any other path answers that it is live."""
    if scope["type"] == "lifespan":
        await _live(receive, send)
    elif scope["path"] == "/v1/predict":
        await _answer(send, await _predict(await _body(receive)))
    else:
        await _answer(send, {"message": "API OK"})


async def _live(receive: Receive, send: Send) -> None:
    global session
    await receive()
    await pool.open()
    async with pool, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=2000)) as session:
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def _predict(body: bytes) -> dict[str, Any]:
    prediction = orjson.loads(body)
    task_id, began = str(uuid.uuid4()), datetime.now(UTC)
    inputs = orjson.dumps(prediction["inputs"]).decode()
    async with pool.connection() as connection:
        await connection.execute(INSERT, (task_id, prediction["model_name"], inputs, began, began, began))
    async with session.post(PLATFORM_URL, data=body, headers={"Content-Type": "application/json"}) as response:
        response.raise_for_status()
        outputs = await response.read()
    ended = datetime.now(UTC)
    seconds = (ended - began).total_seconds()
    async with pool.connection() as connection:
        await connection.execute(UPDATE, (outputs.decode(), seconds, ended, ended, task_id))
    return {
        "id": task_id,
        "model_name": prediction["model_name"],
        "status": "succeeded",
        "created_at": began,
        "started_at": began,
        "ended_at": ended,
        "platform": "k8s",
        "running_time": f"{seconds:.6f}s",
        "outputs": orjson.loads(outputs),
        "error_info": "",
    }


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def _answer(send: Send, answer: dict[str, Any]) -> None:
    body = orjson.dumps(answer)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
