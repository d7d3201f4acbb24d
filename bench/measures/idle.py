"""Memory and CPU time of web, worker and scheduler while no requests come."""

import time
from collections.abc import Iterator

from bench.figures import AGENT, Bench, Figure, Measure

SETTLE_SECONDS = 5.0
MINUTE = 60.0
MEMORY = "MB of {} (PSS)"
CPU = "CPU s a minute of {}"


def run(bench: Bench) -> Iterator[Figure]:
    settle, seconds = (1.0, 3.0) if bench.quick else (SETTLE_SECONDS, MINUTE)
    for number in range(bench.rounds):
        bench.contestants.stores.clear()
        with bench.contestants.agent() as processes:
            time.sleep(settle)
            before = {name: process.cpu_seconds() for name, process in processes.items()}
            time.sleep(seconds)
            cpu = {name: (processes[name].cpu_seconds() - before[name]) * MINUTE / seconds for name in processes}
            memory = {name: process.memory_mb() for name, process in processes.items()}
        for quantity, values in ((MEMORY, memory), (CPU, cpu)):
            for name, value in {"all processes": sum(values.values()), **values}.items():
                yield Figure(quantity=quantity.format(name), contestant=AGENT, round=number, value=value)


MEASURE = Measure("idle", "Web, worker and scheduler without requests", run)
