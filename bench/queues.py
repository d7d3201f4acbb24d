"""A worker that stands still while its queue is filled, and then works it off against the clock."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.figures import Bench
from bench.processes import PeakMemory, Process, wait_for

DRAIN_SECONDS = 600.0
WARM_UP_SLEEP = 1.0
"""Seconds that the first tasks take: longer than it takes to queue one for each slot."""


@dataclass(frozen=True)
class Drained:
    """How long it took until the last task was on record, at most how much memory, and the CPU time of all threads."""

    seconds: float
    memory_mb: float
    cpu_seconds: float


@contextmanager
def warm_worker(bench: Bench, name: str, slots: int) -> Iterator[Process]:
    """A worker that has worked before, in all its slots at once: their threads and connections are there."""
    bench.contestants.stores.clear()
    bench.contestants.platform.forget()
    with bench.contestants.worker(name, slots) as process:
        bench.contestants.fill(name, max(16, slots // 16 * 16), WARM_UP_SLEEP)
        _wait_until_all_ended(bench, name, process)
        bench.contestants.database(name).clear()
        bench.contestants.platform.forget()
        yield process


def drain(bench: Bench, name: str, process: Process, count: int, sleep: float = 0.0, already: int = 0) -> Drained:
    """Fills the queue while the worker stands still, and takes the time.

    `already`: how many ended tasks are on record. Raises SystemExit where one is lost.
    """
    process.signal_all(signal.SIGSTOP)
    bench.contestants.fill(name, count, sleep)
    cpu = process.cpu_seconds()
    with PeakMemory(process) as memory:
        began = time.monotonic()
        process.signal_all(signal.SIGCONT)
        _wait_until_all_ended(bench, name, process)
        seconds = time.monotonic() - began
    found = bench.contestants.database(name).statuses()
    if sum(found.values()) != count + already or (not already and found.get("succeeded") != count):
        raise SystemExit(f"{name} was to end {count} tasks with success, and has {found}")
    bench.say(f"{name}: {count} tasks in {seconds:.2f} s, {memory.mb:.0f} MB")
    return Drained(seconds, memory.mb, process.cpu_seconds() - cpu)


def _wait_until_all_ended(bench: Bench, name: str, process: Process) -> None:
    database = bench.contestants.database(name)
    wait_for(lambda: not database.has_unfinished(), DRAIN_SECONDS, f"the end of all tasks of {name}", process)
