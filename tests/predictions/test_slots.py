"""Slots: never more jobs at once than slots, and none lost, however they end."""

import random
import threading
import time
from collections import Counter

import pytest

from predictions.worker.runs import Run
from predictions.worker.slots import Slots


def new_run(number: int) -> Run:
    return Run(str(number), "execution", "default", {})


@pytest.mark.parametrize("size", [1, 64])
def test_every_job_runs_once_and_never_more_than_there_are_slots(size: int) -> None:
    """Every third one is given up by another thread, at about the moment at which it ends by itself."""
    lock = threading.Lock()
    ran: Counter[str] = Counter()
    holding = peak = 0

    def enter(run: Run) -> None:
        nonlocal holding, peak
        with lock:
            ran[run.job_id] += 1
            holding += 1
            peak = max(peak, holding)

    def leave() -> None:
        nonlocal holding
        with lock:
            holding -= 1

    def give_up(run: Run) -> None:
        if run.claim_end():
            leave()
            slots.release()

    def perform(run: Run) -> bool:
        enter(run)
        if int(run.job_id) % 3 == 0:
            threading.Timer(0.002, give_up, args=(run,)).start()
        time.sleep(random.uniform(0, 0.004))
        if not run.claim_end():
            return False
        leave()
        return True

    slots = Slots(size, perform)
    jobs = 30 * size
    for number in range(jobs):
        assert slots.acquire(1, timeout=20) == 1
        slots.run(new_run(number))
    for _ in range(size):
        assert slots.acquire(1, timeout=20) == 1
    assert slots.acquire(1, timeout=0.2) == 0
    assert peak <= size
    assert ran == {str(number): 1 for number in range(jobs)}


def test_threads_are_used_again() -> None:
    before = threading.active_count()
    slots = Slots(4, lambda run: True)
    for number in range(100):
        slots.acquire(1, timeout=20)
        slots.run(new_run(number))
    assert threading.active_count() - before <= 4
