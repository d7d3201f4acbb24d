"""Async submissions a second: each makes a record, queues a task and answers its id."""

from collections.abc import Iterator

from bench.figures import AGENT, Bench, Figure, Measure
from bench.servers import run_load, submissions

RATE = "submissions/s, 16 connections"
PEER = "fastapi + celery"


def run(bench: Bench) -> Iterator[Figure]:
    for number in range(bench.rounds):
        for name in (AGENT, PEER):
            bench.contestants.stores.clear()
            with bench.contestants.web(AGENT if name == AGENT else "fastapi") as web:
                run_load(submissions(web.port, connections=16, seconds=1))
                told = run_load(submissions(web.port, connections=16, seconds=bench.seconds(5)))
            rate = told["answered"] / told["seconds"]
            bench.say(f"{name}: {rate:.0f} submissions/s")
            yield Figure(quantity=RATE, contestant=name, round=number, value=rate)


MEASURE = Measure("submit", "Async submissions", run)
