"""The reports of the benchmark from made-up figures, and short runs of it."""

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

from bench import compare, report
from bench.environment import Checkout
from bench.figures import AGENT, Bench, Figure, Goal, Measure
from tests.helpers.servers import ROOT


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
    """The second round was slow for all contestants; the ratio of the medians would differ."""
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
    measures = ["--only", "sync,submit,mixed,idle", "--database", "postgresql"]
    command = ["-m", "bench", "--quick", *measures, "--output", str(results)]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, timeout=600)
    text = results.read_text()
    for contestant in ("fastapi", "floor", "fastapi + celery"):
        rows = [line for line in text.splitlines() if f"| {contestant} " in line and "/s," in line]
        assert rows
        assert all(float(row.strip("| ").rpartition("|")[2].strip(" *")) > 0 for row in rows)
    assert "sync: requests/s, 32 connections" in text
    assert "CPU ms a task in web, worker, database and Redis" in text
    for process in ("all processes", "web", "worker", "scheduler"):
        assert float(cells(text, f"MB of {process} (PSS)")[3]) > 10


# --- Comparing two checkouts


def a_round(a: float, b: float) -> compare.Round:
    return {"A": {"tasks/s": a}, "B": {"tasks/s": b}}


def test_each_round_of_a_comparison_swaps_the_order() -> None:
    assert [compare.order(index) for index in range(3)] == [("A", "B"), ("B", "A"), ("A", "B")]


def test_a_comparison_has_medians_their_ratio_and_the_ratios_within_each_round() -> None:
    pairs = compare.paired("sqlite", [a_round(100, 120), a_round(50, 75), a_round(200, 100)])
    told = row_of(compare.table(pairs), "tasks/s")
    assert told == ["tasks/s", "sqlite", "100", "50 – 200", "100", "75 – 120", "1.00", "1.20 (0.50 – 1.50)"]


def test_a_comparison_has_no_ratio_to_zero() -> None:
    assert row_of(compare.table(compare.paired("sqlite", [a_round(0, 3)])), "tasks/s")[6:] == ["", ""]


def test_the_json_of_a_comparison_has_the_values_of_all_rounds(tmp_path: Path) -> None:
    sides = {"A": Checkout(tmp_path), "B": Checkout(tmp_path, {"SOME_SETTING": "no"})}
    told = compare.document(sides, compare.paired("sqlite", [a_round(100, 120), a_round(50, 75)]))
    assert "SOME_SETTING=no" in told["B"]
    assert "SOME_SETTING" not in told["A"]
    (measured,) = told["measured"]
    assert (measured["A"], measured["B"], measured["ratio"]) == ([100, 50], [120, 75], 1.3)


def test_processes_of_a_checkout_see_none_of_the_callers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("ML_PLATFORM", "local")
    environment = Checkout(ROOT, {"SOME_SETTING": "no"}).environment()
    assert environment["SOME_SETTING"] == "no"
    assert not {"PYTHONPATH", "ML_PLATFORM"} & set(environment)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "name the directory of another checkout"),
        (["/"], "is not a checkout of the agent"),
        (["--variant", "NAME"], "needs NAME=VALUE"),
        (["--variant", "NAME=VALUE", "--only", "nothing"], "there is no measure nothing"),
    ],
)
def test_a_comparison_with_unusable_arguments_is_refused(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        compare.main(arguments)
    assert complaint in capsys.readouterr().err


@pytest.mark.slow
def test_a_comparison_measures_both_checkouts_and_runs_the_code_of_each(tmp_path: Path) -> None:
    other, results = tmp_path / "other", tmp_path / "results.json"
    shutil.copytree(ROOT, other, ignore=shutil.ignore_patterns("bench", "tests", "var", "__pycache__", ".*"))
    with (other / "config/wsgi.py").open("a") as wsgi:
        wsgi.write("\nopen('ran-here', 'a').close()\n")
    command = ["-m", "bench.compare", str(other), "--variant", "LOG_LEVEL=ERROR", "--rounds", "1", "--quick"]
    more = ["--database", "sqlite", "--json", str(results)]
    subprocess.run([sys.executable, *command, *more], cwd=ROOT, check=True, timeout=600)
    told = json.loads(results.read_text())
    assert str(other) in told["B"]
    assert (other / "ran-here").exists()
    assert not (ROOT / "ran-here").exists()
    quantities = {measured["quantity"] for measured in told["measured"]}
    for name in compare.NAMES:
        assert any(quantity.startswith(name) for quantity in quantities)
    assert all(measured["A"][0] > 0 and measured["B"][0] > 0 for measured in told["measured"] if measured["ratio"])
    assert [m["A"] + m["B"] for m in told["measured"] if m["quantity"] == "crowd: errors"] == [[0, 0]]


# --- docs/performance.md against RESULTS.md and against the settings

PAGE = (ROOT / "docs/performance.md").read_text()
RESULTS = (ROOT / "bench/RESULTS.md").read_text()
DATABASES = ("postgresql", "sqlite")


def rows(text: str, head: str) -> list[list[str]]:
    """The rows of the table whose first column is headed so."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("| ") and cells(line, "")[0] == head:
            next(lines)
            break
    return [cells(line, "") for line in takewhile(lambda line: line.startswith("|"), lines)]


def results() -> dict[tuple[str, str], dict[str, tuple[str, str]]]:
    """(measure, database) → contestant → its median and the agent's ratio to it."""
    found: dict[tuple[str, str], dict[str, tuple[str, str]]] = {}
    for quantity, database, contestant, median, _, ratio in rows(RESULTS, "Measured"):
        if database:
            assert contestant not in found.setdefault((quantity, database), {})
            found[quantity, database][contestant] = (median, ratio.strip("*"))
    return found


def test_each_figure_of_the_performance_page_stands_in_the_results() -> None:
    measured = results()
    titles = {row[0] for row in rows(RESULTS, "Measured") if not row[1]}
    told = rows(PAGE, "measured")
    assert len(told) > 20
    for quantity, *by_database in told:
        if by_database == ["", ""]:
            assert quantity in titles
            continue
        for database, cell in zip(DATABASES, by_database, strict=True):
            own, *others = cell.split("; ")
            known = measured[quantity, database]
            assert own == known[AGENT][0], f"{quantity}, {database}"
            for other in others:
                contestant, median, ratio = re.fullmatch(r"(.*) (\S+) \((\S+)\)", other).groups()  # type: ignore[union-attr]
                assert (median, ratio) == known[contestant], f"{quantity}, {database}, {contestant}"


def test_the_performance_page_names_each_goal_that_was_not_reached() -> None:
    assert rows(PAGE, "goal") == [row[:4] for row in rows(RESULTS, "Goal") if row[4] == "**no**"]


def test_the_performance_page_reckons_with_the_measured_figures() -> None:
    """Tasks a second, at ten thousand and at a million a minute, times what one costs."""
    cpu, in_flight, statements, round_trips = rows(PAGE, "needed")
    milliseconds, _ = results()["CPU ms a task in workers", "postgresql"][AGENT]
    assert cpu[0] == f"CPU of the workers, {milliseconds} ms a task"
    for column, rate, slots in ((1, 10_000 / 60, 64), (2, 1_000_000 / 60, 256)):
        assert cpu[column] == f"{rate * float(milliseconds) / 1000:.3g} cores"
        assert in_flight[column] == f"{rate:,.0f}: {math.ceil(rate / slots)} workers with {slots} slots"
        assert statements[column] == f"{3 * rate:,.0f} a second"
        assert round_trips[column] == f"{4 * rate:,.0f} a second"


def test_the_performance_page_says_how_many_predictions_a_web_process_waits_for() -> None:
    (bound,) = re.findall(r"^worker_connections = (\d+)$", (ROOT / "config/gunicorn.py").read_text(), re.MULTILINE)
    assert f"up to {int(bound):,} predictions at once" in PAGE
    assert f"N / {int(bound):,} processes" in PAGE
