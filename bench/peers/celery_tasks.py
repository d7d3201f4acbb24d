"""Celery with a pool of threads; late acknowledgement, so that a lost worker loses no job."""

from typing import Any

from celery import Celery

from bench.peers import records

app = Celery("bench", broker=f"{records.REDIS_URL}/1")
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)
_engine = records.sync_engine()


@app.task
def run_prediction(task_id: str, body: dict[str, Any]) -> None:
    records.run(_engine, task_id, body)
