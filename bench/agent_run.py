"""One start of the agent, and the measures that `bench.compare` takes from it one after another."""

import signal
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.figures import AGENT
from bench.load import Load
from bench.processes import Process
from bench.queues import check_succeeded, cpu_seconds, submit_and_drain, wait_until_all_ended
from bench.servers import Contestants, Web, predictions, run_load, submissions

NAMES = ("sync", "crowd", "submit", "drain", "mixed")
SLOTS = 64
CROWD = 1000


def measured(contestants: Contestants, names: Collection[str], *, quick: bool) -> dict[str, float]:
    """Starts the agent, and answers quantity → value for each of the measures in `names`.

    Raises SystemExit if it does not start, answers an error, or loses a task.
    """
    found: dict[str, float] = {}
    contestants.stores.clear()
    with contestants.worker(AGENT, SLOTS) as worker, contestants.web(AGENT) as web:
        run = AgentRun(contestants, web, worker, quick)
        run.warm_up()
        if "sync" in names:
            found |= run.sync()
        if "crowd" in names:
            found |= run.crowd()
        if "submit" in names or "drain" in names:
            found |= run.submit_then_drain()
        if "mixed" in names:
            found |= run.mixed()
    return {quantity: value for quantity, value in found.items() if quantity.startswith(tuple(names))}


@dataclass(frozen=True)
class AgentRun:
    """Web processes and a worker of the agent."""

    contestants: Contestants
    web: Web
    worker: Process
    quick: bool

    @property
    def seconds(self) -> float:
        """How long one kind of load lasts."""
        return 3.0 if self.quick else 8.0

    def warm_up(self) -> None:
        """Gives all slots of the worker a task at once, and web sync predictions meanwhile."""
        run_load(submissions(self.web.port, sleep=1, connections=16, each=SLOTS // 16))
        run_load(predictions(self.web.port, connections=32, seconds=1))
        wait_until_all_ended(self.contestants, AGENT, self.worker)

    def sync(self) -> dict[str, float]:
        direct = run_load(predictions(self.contestants.platform.port, seconds=0.5))
        one = run_load(predictions(self.web.port, seconds=self.seconds))
        many, cpu = self._counted(predictions(self.web.port, connections=32, seconds=self.seconds))
        return {
            "sync, 1 connection: ms added, p50": (one["p50"] - direct["p50"]) * 1000,
            "sync, 1 connection: requests/s": one["answered"] / one["seconds"],
            "sync, 32 connections: requests/s": many["answered"] / many["seconds"],
            "sync, 32 connections: CPU ms a request": cpu / many["answered"] * 1000,
        }

    def crowd(self) -> dict[str, float]:
        load = predictions(self.web.port, sleep=1, connections=CROWD, each=1)
        crowds = [run_load(load, may_fail=True) for _ in range(1 if self.quick else 3)]
        return {
            "crowd: s until all are answered": median(told["seconds"] for told in crowds),
            "crowd: errors": sum(told["errors"] for told in crowds),
        }

    def submit_then_drain(self) -> dict[str, float]:
        """The worker is stopped while tasks are submitted, and then works off this queue."""
        self.contestants.stores.agent.clear()
        with _stopped(self.worker):
            told, submit_cpu = self._counted(submissions(self.web.port, connections=16, seconds=self.seconds))
        cpu, began = self._cpu_seconds(), time.monotonic()
        wait_until_all_ended(self.contestants, AGENT, self.worker)
        seconds, cpu = time.monotonic() - began, self._cpu_seconds() - cpu
        tasks = told["answered"]
        check_succeeded(self.contestants, AGENT, tasks)
        return {
            "submit: tasks/s": tasks / told["seconds"],
            "submit: CPU ms a task": submit_cpu / tasks * 1000,
            "drain: tasks/s": tasks / seconds,
            "drain: CPU ms a task": cpu / tasks * 1000,
        }

    def mixed(self) -> dict[str, float]:
        count = 1600 if self.quick else 4000
        mixed = submit_and_drain(self.contestants, AGENT, self.web, self.worker, count)
        return {
            "mixed: tasks/s": count / mixed.seconds,
            "mixed: CPU ms a task": mixed.cpu_seconds / count * 1000,
        }

    def _counted(self, load: Load) -> tuple[dict[str, Any], float]:
        """What bench.load says, and the CPU seconds that it cost."""
        before = self._cpu_seconds()
        return run_load(load), self._cpu_seconds() - before

    def _cpu_seconds(self) -> float:
        return cpu_seconds(self.contestants, self.web, self.worker)


@contextmanager
def _stopped(process: Process) -> Iterator[None]:
    process.signal_all(signal.SIGSTOP)
    try:
        yield
    finally:
        process.signal_all(signal.SIGCONT)
