"""dramatiq with threads and its defaults."""

from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from bench.peers import records

broker = RedisBroker(url=f"{records.REDIS_URL}/3")
dramatiq.set_broker(broker)
_engine = records.sync_engine()


@dramatiq.actor
def run_prediction(task_id: str, body: dict[str, Any]) -> None:
    records.run(_engine, task_id, body)
