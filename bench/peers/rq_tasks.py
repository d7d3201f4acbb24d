"""RQ with its defaults: `rq worker-pool` forks a process for each job, which keeps no connection for the next."""

from typing import Any

from redis import Redis
from rq import Queue

from bench.peers import records

_engine = records.sync_engine(pooled=False)


def queue() -> Queue:
    return Queue("bench", connection=Redis.from_url(f"{records.REDIS_URL}/2"))


def run_prediction(task_id: str, body: dict[str, Any]) -> None:
    records.run(_engine, task_id, body)
