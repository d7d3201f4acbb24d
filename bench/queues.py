"""Workers against the clock: with a queue that was filled before, and with one that is filled meanwhile."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.figures import Bench
from bench.processes import PeakMemory, Process, wait_for
from bench.servers import Contestants, Web, run_load, submissions

DRAIN_SECONDS = 600.0
WARM_UP_SLEEP = 1.0
"""Seconds that the first tasks take: longer than it takes to queue one for each slot."""


@dataclass(frozen=True)
class Drained:
    """The time until the last task was on record, the most memory, and the CPU time of all threads."""

    seconds: float
    memory_mb: float
    cpu_seconds: float


@dataclass(frozen=True)
class Mixed:
    """Seconds from the first submission to the end of the last task, and CPU seconds of everything but the platform."""

    seconds: float
    cpu_seconds: float


@contextmanager
def warm_worker(bench: Bench, name: str, slots: int) -> Iterator[Process]:
    """A worker that has run a task in each of its slots at once, so it has all its threads and connections."""
    bench.contestants.stores.clear()
    bench.contestants.platform.forget()
    with bench.contestants.worker(name, slots) as process:
        bench.contestants.fill(name, max(16, slots // 16 * 16), WARM_UP_SLEEP)
        wait_until_all_ended(bench.contestants, name, process)
        bench.contestants.database(name).clear()
        bench.contestants.platform.forget()
        yield process


def drain(bench: Bench, name: str, process: Process, count: int, sleep: float = 0.0, already: int = 0) -> Drained:
    """Fills the queue while the worker is stopped, and takes the time until it is empty.

    `already`: the number of ended tasks on record. Raises SystemExit if a task was lost.
    """
    process.signal_all(signal.SIGSTOP)
    bench.contestants.fill(name, count, sleep)
    cpu = process.cpu_seconds()
    with PeakMemory(process) as memory:
        began = time.monotonic()
        process.signal_all(signal.SIGCONT)
        wait_until_all_ended(bench.contestants, name, process)
        seconds = time.monotonic() - began
    check_succeeded(bench.contestants, name, count, already)
    bench.say(f"{name}: {count} tasks in {seconds:.2f} s, {memory.mb:.0f} MB")
    return Drained(seconds, memory.mb, process.cpu_seconds() - cpu)


def submit_and_drain(contestants: Contestants, name: str, web: Web, worker: Process, count: int) -> Mixed:
    """Submits by 16 connections, as fast as they are answered, while the worker runs the tasks.

    `count` is a multiple of 16. Raises SystemExit if a task was lost.
    """
    contestants.database(name).clear()
    cpu, began = cpu_seconds(contestants, web, worker), time.monotonic()
    run_load(submissions(web.port, connections=16, each=count // 16))
    wait_until_all_ended(contestants, name, worker)
    mixed = Mixed(time.monotonic() - began, cpu_seconds(contestants, web, worker) - cpu)
    check_succeeded(contestants, name, count)
    return mixed


def cpu_seconds(contestants: Contestants, web: Web, worker: Process) -> float:
    """CPU time until now of web processes, worker, Redis and PostgreSQL."""
    return web.process.cpu_seconds() + worker.cpu_seconds() + contestants.stores.cpu_seconds()


def wait_until_all_ended(contestants: Contestants, name: str, worker: Process) -> None:
    database = contestants.database(name)
    wait_for(lambda: not database.has_unfinished(), DRAIN_SECONDS, f"the end of all tasks of {name}", worker)


def check_succeeded(contestants: Contestants, name: str, count: int, already: int = 0) -> None:
    """Raises SystemExit unless `count` more tasks than `already` are on record, and have succeeded."""
    found = contestants.database(name).statuses()
    if sum(found.values()) != count + already or (not already and found.get("succeeded") != count):
        raise SystemExit(f"{name} should have ended {count} tasks with success, and has {found}")
