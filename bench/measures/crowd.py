"""A thousand sync predictions at once on a platform that takes a second, and a probe that asks /live meanwhile."""

import json
import subprocess
import time
from collections.abc import Iterator

from bench.environment import PYTHON, ROOT
from bench.figures import AGENT, Bench, Figure, Goal, Measure
from bench.load import Load
from bench.processes import PeakMemory
from bench.servers import Web, predictions, run_load

CROWD = 1000
WALL = "s until all are answered"
ERRORS = "errors"
MEMORY = "MB of all web processes (PSS)"
PROBE = "ms, worst answer of /live meanwhile"


def run(bench: Bench) -> Iterator[Figure]:
    for number in range(bench.rounds):
        for name in (AGENT, "fastapi"):
            bench.contestants.stores.clear()
            with bench.contestants.web(name) as web:
                run_load(predictions(web.port, connections=32, each=10))
                for quantity, value in _crowd(bench, web):
                    yield Figure(quantity=quantity, contestant=name, round=number, value=value)


def _crowd(bench: Bench, web: Web) -> Iterator[tuple[str, float]]:
    probe = Load(port=web.port, method="GET", path="/live", seconds=bench.seconds(6), pause=0.02)
    with PeakMemory(web.process) as memory:
        probing = subprocess.Popen(
            [str(PYTHON), "-m", "bench.load", probe.text()], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        time.sleep(0.5)
        told = run_load(predictions(web.port, sleep=1, connections=CROWD, each=1), may_fail=True)
        probed = json.loads(probing.communicate()[0])
    bench.say(f"{told['seconds']:.2f} s, {told['errors']} errors, {memory.mb:.0f} MB {told['first_error']}")
    yield WALL, told["seconds"]
    yield ERRORS, float(told["errors"] + probed["errors"])
    yield MEMORY, memory.mb
    yield PROBE, probed["worst"] * 1000


MEASURE = Measure(
    "crowd",
    f"{CROWD} sync predictions at once, platform of 1 s",
    run,
    goals=(
        Goal(quantity=WALL, at_most=2),
        Goal(quantity=ERRORS, at_most=0),
        Goal(quantity=MEMORY, at_most=300),
        Goal(quantity=PROBE, at_most=100),
    ),
)
