"""Sync predictions on an instant platform: requests a second, and the time that the agent adds to the platform's."""

from collections.abc import Iterator
from contextlib import nullcontext

from bench.figures import AGENT, Bench, Figure, Goal, Measure
from bench.servers import Web, predictions, run_load

DIRECT = "platform directly"
RATE = "requests/s, 32 connections"
ADDED = "ms added, {quantile}, {connections} connection{s}"


def run(bench: Bench) -> Iterator[Figure]:
    floor = [] if bench.contestants.stores.kind == "sqlite" else ["floor"]  # it knows PostgreSQL only
    for number in range(bench.rounds):
        direct: dict[tuple[str, int], float] = {}
        for name in (DIRECT, AGENT, "fastapi", *floor):
            bench.contestants.stores.clear()
            bench.contestants.platform.forget()
            platform = bench.contestants.platform
            with (
                nullcontext(Web(platform.process, platform.port))
                if name == DIRECT
                else bench.contestants.web(name) as web
            ):
                run_load(predictions(web.port, connections=32, seconds=bench.seconds(2)))  # warm-up
                told = run_load(predictions(web.port, connections=32, seconds=bench.seconds(6)))
                rate = told["answered"] / told["seconds"]
                bench.say(f"{name}: {rate:.0f} requests/s")
                yield Figure(quantity=RATE, contestant=name, round=number, value=rate)
                cpu = web.process.cpu_seconds()
                told = run_load(predictions(web.port, connections=32, seconds=bench.seconds(3)))
                cpu = (web.process.cpu_seconds() - cpu) / told["answered"] * 1000
                yield Figure(quantity="CPU ms a request in web", contestant=name, round=number, value=cpu)
                for connections in (1, 16):
                    told = run_load(predictions(web.port, connections=connections, seconds=bench.seconds(4)))
                    for quantile in ("p50", "p99"):
                        ms = told[quantile] * 1000
                        if name == DIRECT:
                            direct[quantile, connections] = ms
                            continue
                        quantity = ADDED.format(
                            quantile=quantile, connections=connections, s="" if connections == 1 else "s"
                        )
                        added = ms - direct[quantile, connections]
                        yield Figure(quantity=quantity, contestant=name, round=number, value=added)


MEASURE = Measure(
    "sync",
    "Sync predictions, instant platform",
    run,
    goals=(
        Goal(quantity=RATE, against="fastapi", at_least=2),
        Goal(quantity=ADDED.format(quantile="p50", connections=1, s=""), at_most=2, database="postgresql"),
    ),
)
