"""A running agent, and the measures that `bench.compare` takes of it."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.figures import AGENT
from bench.load import Load
from bench.processes import Process
from bench.queues import check_succeeded, cpu_seconds, submit_and_drain, wait_until_all_ended
from bench.servers import Contestants, Web, predictions, run_load, submissions

SLOTS = 64
CROWD = 1000


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

    def sync_alone(self) -> dict[str, float]:
        direct = run_load(predictions(self.contestants.platform.port, seconds=0.5))
        told = run_load(predictions(self.web.port, seconds=self.seconds))
        return {
            "sync, 1 connection: ms added, p50": (told["p50"] - direct["p50"]) * 1000,
            "sync, 1 connection: requests/s": told["answered"] / told["seconds"],
        }

    def sync_together(self) -> dict[str, float]:
        told, cpu = self._counted(predictions(self.web.port, connections=32, seconds=self.seconds))
        return {
            "sync, 32 connections: requests/s": told["answered"] / told["seconds"],
            "sync, 32 connections: CPU ms a request": cpu / told["answered"] * 1000,
        }

    def crowd(self) -> dict[str, float]:
        load = predictions(self.web.port, sleep=1, connections=CROWD, each=1)
        crowds = [run_load(load, may_fail=True) for _ in range(2 if self.quick else 4)]
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


STEPS: tuple[tuple[Callable[[AgentRun], dict[str, float]], tuple[str, ...]], ...] = (
    (AgentRun.sync_alone, ("sync",)),
    (AgentRun.sync_together, ("sync",)),
    (AgentRun.crowd, ("crowd",)),
    (AgentRun.submit_then_drain, ("submit", "drain")),
    (AgentRun.mixed, ("mixed",)),
)
"""What measures, and the names of its measures: each quantity begins with one of them."""


@contextmanager
def started(contestants: Contestants, *, quick: bool) -> Iterator[AgentRun]:
    """The agent on empty stores, warmed up. Raises SystemExit if it does not start or answers errors."""
    contestants.stores.clear()
    contestants.platform.forget()
    with contestants.worker(AGENT, SLOTS) as worker, contestants.web(AGENT) as web:
        run = AgentRun(contestants, web, worker, quick)
        run.warm_up()
        yield run


@contextmanager
def _stopped(process: Process) -> Iterator[None]:
    process.signal_all(signal.SIGSTOP)
    try:
        yield
    finally:
        process.signal_all(signal.SIGCONT)
