"""A worker's core, and its garbage collector."""

import gc
import os
import threading
from collections.abc import Iterator

import pytest

from predictions.server import process


@pytest.fixture
def cores() -> Iterator[set[int]]:
    """The cores of this thread, which may use all of them again afterwards."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("only Linux pins threads to cores")
    cores = os.sched_getaffinity(0)
    yield cores
    os.sched_setaffinity(0, cores)


def test_a_thread_and_those_that_it_starts_are_pinned_to_one_of_their_cores(cores: set[int]) -> None:
    process.pin_to_one_core()
    (core,) = os.sched_getaffinity(0)
    assert core in cores
    found: list[set[int]] = []
    later = threading.Thread(target=lambda: found.append(os.sched_getaffinity(0)))
    later.start()
    later.join()
    assert found == [{core}]


def test_each_core_is_chosen_by_some_process(cores: set[int]) -> None:
    chosen = set()
    for _ in range(200):
        process.pin_to_one_core()
        chosen |= os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)
    assert len(chosen) > 1 or len(cores) == 1


@pytest.mark.usefixtures("cores")
def test_where_the_system_forbids_it_the_process_keeps_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*args: object) -> None:
        raise PermissionError

    before = os.sched_getaffinity(0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "sched_setaffinity", forbid)
        process.pin_to_one_core()
    assert os.sched_getaffinity(0) == before


def test_where_the_system_cannot_pin_threads_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.delattr(os, "sched_setaffinity", raising=False)
        process.pin_to_one_core()


def test_the_collector_skips_what_is_loaded() -> None:
    thresholds = gc.get_threshold()
    try:
        process.spare_collector(collect_after=5_000)
        assert gc.get_freeze_count() > 10_000
        assert gc.get_threshold()[0] == 5_000
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
