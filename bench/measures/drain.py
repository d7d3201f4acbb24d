"""Tasks a second through a worker and onto the record, on an instant platform."""

from collections.abc import Iterator

from bench.figures import AGENT, Bench, Figure, Goal, Measure
from bench.queues import drain, warm_worker
from bench.servers import QUEUE_PEERS

SLOTS = 64
COUNTS = {AGENT: 3200, "celery": 3200, "dramatiq": 3200, "rq": 256}
"""Enough for some seconds each."""
RATE = "tasks/s"
PER_MB = "tasks/s for each MB"


def run(bench: Bench) -> Iterator[Figure]:
    for number in range(bench.rounds):
        for name in (AGENT, *QUEUE_PEERS):
            count = bench.count(COUNTS[name])
            with warm_worker(bench, name, SLOTS) as process:
                drained = drain(bench, name, process, count)
            told = {
                RATE: count / drained.seconds,
                PER_MB: count / drained.seconds / drained.memory_mb,
                "MB of all worker processes (PSS)": drained.memory_mb,
                "CPU ms a task in workers": drained.cpu_seconds / count * 1000,
            }
            for quantity, value in told.items():
                yield Figure(quantity=quantity, contestant=name, round=number, value=value)


MEASURE = Measure(
    "drain",
    f"Working off a queue on {SLOTS} slots, instant platform",
    run,
    goals=(
        Goal(quantity=RATE, against="celery", at_least=1.5),
        Goal(quantity=PER_MB, against="rq", at_least=10),
    ),
)
