"""Reading tasks: `GET /task/{id}` of ended ones."""

from collections.abc import Iterator

from bench.figures import AGENT, Bench, Figure, Measure
from bench.load import Load
from bench.servers import predictions, run_load

RATE = "reads/s, 16 connections"


def run(bench: Bench) -> Iterator[Figure]:
    for number in range(bench.rounds):
        for name in (AGENT, "fastapi"):
            bench.contestants.stores.clear()
            with bench.contestants.web(name) as web:
                run_load(predictions(web.port, connections=16, each=10))
                rows = bench.contestants.database(name).execute("SELECT id FROM predictions_task")
                paths = tuple(f"/task/{task_id}" for (task_id,) in rows)
                load = Load(port=web.port, method="GET", path="", paths=paths, connections=16, seconds=bench.seconds(4))
                told = run_load(load)
            yield Figure(quantity=RATE, contestant=name, round=number, value=told["answered"] / told["seconds"])


MEASURE = Measure("read", "Reading tasks", run)
