"""The benchmark's report, from made-up figures; and the benchmark itself, short."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import report
from bench.figures import AGENT, Bench, Figure, Goal, Measure
from tests.servers import ROOT


def no_run(bench: Bench) -> Iterator[Figure]:
    yield from ()


def rates(*by_contestant: tuple[str, list[float]]) -> list[Figure]:
    return [
        Figure(quantity="tasks/s", contestant=name, round=number, value=value, database="sqlite", measure="drain")
        for name, values in by_contestant
        for number, value in enumerate(values)
    ]


def measure(*goals: Goal) -> Measure:
    return Measure("drain", "Working off a queue", no_run, goals)


def cells(table: str, beginning: str) -> list[str]:
    line = next(line for line in table.splitlines() if line.startswith(f"| {beginning}"))
    return [cell.strip() for cell in line[1:-1].split("|")]


def row_of(table: str, contestant: str) -> list[str]:
    return next(row for row in (cells(line, "") for line in table.splitlines() if line) if contestant in row)


def test_the_table_has_medians_and_the_ratios_within_each_round() -> None:
    """The second round was slow for everybody; the ratio of the medians would be another."""
    table = report.table([measure()], rates((AGENT, [200, 20, 240]), ("celery", [100, 20, 60])))
    assert row_of(table, AGENT) == ["tasks/s", "sqlite", AGENT, "200", "20 – 240", ""]
    assert row_of(table, "celery") == ["tasks/s", "sqlite", "celery", "60", "20 – 100", "**2.00**"]


def test_goals_say_whether_they_are_reached() -> None:
    bounds = measure(
        Goal(quantity="tasks/s", against="celery", at_least=1.5),
        Goal(quantity="tasks/s", at_most=150),
        Goal(quantity="tasks/s", at_most=150, database="postgresql"),
        Goal(quantity="never measured", at_most=1),
    )
    told = report.goals([bounds], rates((AGENT, [200]), ("celery", [100])))
    assert [cells(line, "")[2:] for line in told.splitlines()[2:]] == [
        ["≥ 1.5 × celery", "2", "yes"],
        ["≤ 150", "200", "**no**"],
    ]


def test_the_results_say_how_and_on_what() -> None:
    text = report.whole([measure()], rates((AGENT, [200]), ("celery", [100])), "python -m bench --only drain")
    assert "`python -m bench --only drain`" in text
    assert "cores" in text
    assert "celery 5" in text


def test_an_unknown_measure_is_refused() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "bench", "--only", "nothing"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2
    assert "there is no measure nothing" in ended.stderr


@pytest.mark.slow
def test_the_benchmark_runs_and_compares(tmp_path: Path) -> None:
    results = tmp_path / "RESULTS.md"
    command = ["-m", "bench", "--quick", "--only", "sync,submit", "--database", "sqlite", "--output", str(results)]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, timeout=600)
    text = results.read_text()
    for contestant in ("fastapi", "fastapi + celery"):
        rows = [line for line in text.splitlines() if f"| {contestant} " in line and "/s," in line]
        assert rows
        assert all(float(row.strip("| ").rpartition("|")[2].strip(" *")) > 0 for row in rows)
    assert "sync: requests/s, 32 connections" in text


def numbers(text: str) -> Iterator[tuple[float, int]]:
    """Each with how many decimals it is written."""
    for found in re.findall(r"\d[\d,]*(?:\.\d+)?", text):
        number = found.rstrip(",").replace(",", "")
        yield float(number), len(number.partition(".")[2])


def test_the_summary_has_the_figures_of_the_results() -> None:
    summary = (ROOT / "docs/performance.md").read_text().partition("## What a prediction costs")[0]
    measured = [number for number, _ in numbers((ROOT / "bench/RESULTS.md").read_text())]
    told = list(numbers(summary.partition("two rounds")[2]))
    assert len(told) > 50
    assert [number for number, digits in told if all(round(each, digits) != number for each in measured)] == []
