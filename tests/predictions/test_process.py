"""On which core a worker's threads run, and what the collector looks at."""

import gc
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from predictions.server import process
from predictions.server.process import Look, busy_seconds, choose

STAT = """\
cpu  300 0 100 900 50 0 10 5 7 0
cpu0 100 10 50 400 25 5 5 5 7 0
cpu1 200 0 50 500 25 0 5 0 0 0
intr 12345 0 0
ctxt 99
"""


@pytest.fixture
def cores() -> Iterator[list[int]]:
    """Those of this process, whose threads may run on all of them again afterwards."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("threads are bound to cores on Linux alone: elsewhere a worker does without")
    cores = sorted(os.sched_getaffinity(0))
    yield cores
    process.move_to(cores)


def looks(*, own: float = 0.0, **busy: float) -> tuple[Look, Look]:
    """Two looks, ten seconds apart: how long meanwhile this process ran, and each core was busy."""
    seconds = {int(core.removeprefix("core")): value for core, value in busy.items()}
    return Look(0.0, 50.0, dict.fromkeys(seconds, 70.0)), Look(
        10.0, 50.0 + own, {core: 70.0 + value for core, value in seconds.items()}
    )


def test_the_first_core_is_the_one_that_is_least_busy() -> None:
    assert choose(None, {0, 1, 2}, *looks(core0=9.0, core1=1.0, core2=3.0)) == 1
    assert choose(None, {0, 2}, *looks(core0=9.0, core1=1.0, core2=3.0)) == 2


def test_a_core_that_this_process_alone_keeps_busy_is_kept() -> None:
    assert {choose(0, {0, 1}, *looks(own=9.0, core0=9.5, core1=1.0)) for _ in range(50)} == {0}


def test_a_core_is_kept_where_others_leave_hardly_more_of_another() -> None:
    assert {choose(0, {0, 1}, *looks(own=5.0, core0=9.0, core1=2.0)) for _ in range(50)} == {0}


def test_a_core_that_others_need_is_left_but_not_by_everybody_at_once() -> None:
    assert {choose(0, {0, 1}, *looks(own=2.0, core0=9.0, core1=2.0)) for _ in range(50)} == {0, 1}


def test_a_core_that_the_system_says_nothing_of_is_taken_for_free() -> None:
    assert choose(None, {0, 7}, *looks(core0=9.0)) == 7


def test_how_long_cores_were_busy_is_read_as_the_kernel_writes_it() -> None:
    tick = 1 / os.sysconf("SC_CLK_TCK")
    assert busy_seconds(STAT) == pytest.approx({0: 175 * tick, 1: 255 * tick})


@pytest.mark.usefixtures("cores")
def test_cores_are_busy_here_for_longer_and_longer() -> None:
    first = process.look()
    deadline = time.process_time() + 0.1
    while time.process_time() < deadline:
        pass
    assert sum(process.look().busy.values()) > sum(first.busy.values())


def test_all_threads_move_and_those_that_come_later_follow(cores: list[int]) -> None:
    over = threading.Event()
    threads = [threading.Thread(target=over.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    process.move_to(cores[:1])
    later = threading.Thread(target=over.wait)
    later.start()
    try:
        assert all(os.sched_getaffinity(thread.native_id or 0) == {cores[0]} for thread in [*threads, later])
    finally:
        over.set()


def test_where_there_is_one_core_no_other_is_looked_for(cores: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    process.move_to(cores[:1])
    with monkeypatch.context() as patch:
        patch.setattr(threading, "Thread", None)
        process.keep_to_one_core()


def test_where_the_system_binds_no_threads_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with monkeypatch.context() as patch:
        patch.setattr(threading, "Thread", None)
        process.keep_to_one_core()


@pytest.mark.parametrize("broken", ["_STAT", "_THREADS"])
def test_where_the_system_does_not_let_it_the_threads_run_anywhere(
    cores: list[int], broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(process, "FIRST_LOOK_SECONDS", 0)
        patch.setattr(process, broken, Path("/nowhere"))
        process.keep_to_one_core()
        for thread in threading.enumerate():
            if thread.name == "affinity":
                thread.join()
    assert os.sched_getaffinity(0) == set(cores)


def test_the_collector_leaves_what_is_loaded_alone() -> None:
    thresholds = gc.get_threshold()
    try:
        process.leave_what_is_loaded(collect_after=5_000)
        assert gc.get_freeze_count() > 10_000
        assert gc.get_threshold()[0] == 5_000
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
