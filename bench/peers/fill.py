"""Puts jobs into a peer's queue, each with its record: `python -m bench.peers.fill celery 640 1.0`."""

import sys
from typing import Any

from bench.peers import records


def main(peer: str, count: int, sleep: float) -> None:
    engine = records.sync_engine()
    bodies = [{"model_name": "m", "inputs": {"n": number, "sleep": sleep}} for number in range(count)]
    rows = [records.new_record(body, "pending") for body in bodies]
    with engine.begin() as connection:
        for row in rows:
            records.insert(connection, row)
    send = _sender(peer)
    for row, body in zip(rows, bodies, strict=True):
        send(row["id"], body)


def _sender(peer: str) -> Any:
    """What takes (task id, body)."""
    if peer == "celery":
        from bench.peers import celery_tasks

        return celery_tasks.run_prediction.delay
    if peer == "dramatiq":
        from bench.peers import dramatiq_tasks

        return dramatiq_tasks.run_prediction.send
    from bench.peers import rq_tasks

    queue = rq_tasks.queue()
    return lambda task_id, body: queue.enqueue(rq_tasks.run_prediction, task_id, body)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
