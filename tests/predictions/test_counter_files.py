"""Counts in files, one for each process: full disks, torn files, and processes that have ended."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import mmap_key
from prometheus_client.multiprocess import MultiProcessCollector

from predictions.telemetry import counter_files
from predictions.telemetry.counter_files import CounterFile, files_to_add_up

KEY = mmap_key("asked", "asked_total", ["path"], ["/v1/predict"], "Requests.")  # type: ignore[no-untyped-call]


@pytest.fixture
def counts(tmp_path: Path) -> Callable[..., CounterFile]:
    """A process's file with a count in it; it is locked until it is closed."""

    def count(number: int, value: float, kind: str = "counter") -> CounterFile:
        file = CounterFile(str(tmp_path / f"{kind}_{number}-ab.db"))
        file.write_value(KEY, value, 0.0)
        return file

    return count


def total(directory: Path) -> float:
    """The total over all processes, as /metrics reports it."""
    with files_to_add_up(str(directory)) as files:
        metrics = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
    return sum(sample.value for metric in metrics if metric.name == "asked" for sample in metric.samples)


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {"lock"}


def test_the_counts_of_all_processes_add_up(counts: Callable[..., CounterFile], tmp_path: Path) -> None:
    first, second = counts(1, 3), counts(2, 4)
    first.write_value(KEY, 5, 0.0)
    assert total(tmp_path) == 9
    assert files(tmp_path) == {"counter_1-ab.db", "counter_2-ab.db"}
    second.close()
    assert total(tmp_path) == 9


def test_the_files_of_ended_processes_become_one(counts: Callable[..., CounterFile], tmp_path: Path) -> None:
    for number in range(1, 6):
        counts(number, number).close()
    live = counts(6, 6)
    assert total(tmp_path) == 21
    assert files(tmp_path) == {"counter_folded.db", "counter_6-ab.db"}
    live.close()
    counts(7, 7).close()
    assert total(tmp_path) == 28
    assert files(tmp_path) == {"counter_folded.db"}


def test_processes_that_start_and_end_leave_no_files_behind(tmp_path: Path) -> None:
    program = (
        "import django; django.setup(); from predictions.telemetry import counters;"
        "counters.begin_at_zero(platform='k8s', routes=['/v1/predict']); counters.task_finished('m', 'succeeded')"
    )
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "DJANGO_SETTINGS_MODULE": "config.settings"}
    for _ in range(3):
        subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)
    assert len(files(tmp_path)) >= 9
    with files_to_add_up(str(tmp_path)) as found:
        metrics = {metric.name: metric for metric in MultiProcessCollector.merge(found)}  # type: ignore[no-untyped-call]
    assert [sample.value for sample in metrics["tasks_finished"].samples] == [3]
    assert {name.rpartition("_")[2] for name in files(tmp_path)} == {"folded.db"}


@pytest.mark.parametrize("when", ["before the old files are deleted", "before the new file is there"])
def test_a_fold_that_is_interrupted_counts_nothing_twice(
    counts: Callable[..., CounterFile], tmp_path: Path, when: str
) -> None:
    counts(1, 3).close()
    kept = tmp_path / "kept"
    shutil.copy(tmp_path / "counter_1-ab.db", kept)
    assert total(tmp_path) == 3
    if when == "before the old files are deleted":
        shutil.copy(kept, tmp_path / "counter_1-ab.db")
    else:
        (tmp_path / "counter_folded.db").rename(tmp_path / "counter_folded.draft")
        shutil.copy(kept, tmp_path / "counter_1-ab.db")
    kept.unlink()
    assert total(tmp_path) == 3
    counts(2, 4).close()
    assert total(tmp_path) == 7
    assert files(tmp_path) == {"counter_folded.db"}


@pytest.mark.parametrize(
    "content",
    [b"", b"\x01", b"\xff\xff\xff\x7f1234", b"\x20\x00\x00\x00\x00\x00\x00\x00\x40\x00\x00\x00not json", b"x" * 99],
)
@pytest.mark.parametrize("name", ["counter_1-ab.db", "counter_folded.db", "histogram_9-ab.db"])
def test_a_torn_file_does_not_spoil_the_others(
    counts: Callable[..., CounterFile], tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    counts(2, 4).close()
    live = counts(3, 5)
    assert total(tmp_path) == 9
    assert total(tmp_path) == 9
    live.close()


def test_a_count_that_cannot_be_written_is_kept_and_written_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = os.pwrite

    def no_space(file: int, data: bytes, position: int) -> int:
        return write(file, data[:2], position) if position > 8 else write(file, data, position)

    file = CounterFile(str(tmp_path / "counter_1-ab.db"))
    file.write_value(KEY, 1, 0.0)
    other = mmap_key("asked", "asked_total", ["path"], ["/live"], "Requests.")  # type: ignore[no-untyped-call]
    with monkeypatch.context() as patch, caplog.at_level("WARNING"):
        patch.setattr(counter_files.os, "pwrite", no_space)
        for value in (1.0, 2.0, 3.0):
            file.write_value(other, value, 0.0)
        assert file.read_value(other) == (3.0, 0.0)
        assert total(tmp_path) == 1
    assert len(caplog.records) == 1
    file.write_value(other, 4.0, 0.0)
    assert total(tmp_path) == 5
    file.close()


def test_a_directory_that_is_gone_costs_the_counts_and_nothing_else(tmp_path: Path) -> None:
    file = CounterFile(str(tmp_path / "nowhere" / "counter_1-ab.db"))
    file.write_value(KEY, 1, 0.0)
    assert file.read_value(KEY) == (1.0, 0.0)


def test_files_of_another_kind_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "agent.db").write_bytes(b"SQLite format 3\x00")
    assert total(tmp_path) == 0
    assert files(tmp_path) == {"agent.db"}
