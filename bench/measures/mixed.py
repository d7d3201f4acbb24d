"""Submissions and a worker at once: tasks a second, and the CPU time of everything that a task needs."""

from collections.abc import Iterator

from bench.figures import AGENT, Bench, Figure, Measure
from bench.queues import submit_and_drain, wait_until_all_ended
from bench.servers import run_load, submissions

SLOTS = 64
COUNTS = {AGENT: 3200, "fastapi + celery": 1600}
"""Enough for some seconds each."""
RATE = "tasks/s, submitted by 16 connections meanwhile"
CPU = "CPU ms a task in web, worker, database and Redis"


def run(bench: Bench) -> Iterator[Figure]:
    contestants = bench.contestants
    for number in range(bench.rounds):
        for name, usual in COUNTS.items():
            count = bench.count(usual)
            contestants.stores.clear()
            with (
                contestants.worker(AGENT if name == AGENT else "celery", SLOTS) as worker,
                contestants.web(AGENT if name == AGENT else "fastapi") as web,
            ):
                run_load(submissions(web.port, sleep=1, connections=16, each=SLOTS // 16))
                wait_until_all_ended(contestants, name, worker)
                mixed = submit_and_drain(contestants, name, web, worker, count)
            bench.say(f"{name}: {count} tasks in {mixed.seconds:.2f} s")
            yield Figure(quantity=RATE, contestant=name, round=number, value=count / mixed.seconds)
            yield Figure(quantity=CPU, contestant=name, round=number, value=mixed.cpu_seconds / count * 1000)


MEASURE = Measure("mixed", f"Submitting and working off at once, {SLOTS} slots, instant platform", run)
