"""scripts/test, in a checkout whose other programs only say that they were called."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PYTHON = """#!/bin/sh
echo "python $* on ${DATABASE_URL:-SQLite}" >>calls
case "$*" in *"tests.helpers.postgres start"*) echo postgres://its-own ;; esac
[ "$*" != "$FAILS" ]
"""
PROGRAM = """#!/bin/sh
echo "$0 $*" >>calls
[ "$0" != "$FAILS" ]
"""
LINT = "scripts/check"
SUITE = "-m pytest -q -n 2"
ON_POSTGRESQL = f"{SUITE} tests/predictions tests/webhooks tests/test_migrations.py tests/test_security.py"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, text in {"scripts/run": PROGRAM, LINT: PROGRAM, ".venv/bin/python": PYTHON}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    shutil.copy2(ROOT / "scripts/test", tmp_path / "scripts/test")
    return tmp_path


def run(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["scripts/test", *arguments],
        cwd=checkout,
        env={"PATH": os.environ["PATH"], "FAILS": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def calls(checkout: Path) -> list[str]:
    return [line for line in (checkout / "calls").read_text().splitlines() if "tests.helpers.postgres" not in line]


def test_it_installs_requirements_then_runs_lint_and_the_suite_on_both_databases(checkout: Path) -> None:
    done = run(checkout)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "test: everything passed")
    prepared, *rest = calls(checkout)
    assert prepared == "scripts/run --prepare requirements-dev.lock"
    assert sorted(rest) == [
        f"python {SUITE} on SQLite",
        f"python {ON_POSTGRESQL} on postgres://its-own",
        f"{LINT} ",
    ]


def test_it_uses_the_postgresql_that_it_is_given(checkout: Path) -> None:
    run(checkout, DATABASE_URL="postgres://given")
    assert f"python {ON_POSTGRESQL} on postgres://given" in calls(checkout)
    assert "tests.helpers.postgres" not in (checkout / "calls").read_text()


def test_arguments_are_pytests(checkout: Path) -> None:
    run(checkout, "tests/test_docs.py", "-x")
    assert calls(checkout)[-1] == "python -m pytest -q tests/test_docs.py -x on postgres://its-own"


@pytest.mark.parametrize("fails", [LINT, SUITE])
def test_a_failure_is_reported_at_the_end_and_stops_nothing_else(checkout: Path, fails: str) -> None:
    done = run(checkout, FAILS=fails)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("test: FAILED: ")
    assert len(calls(checkout)) == 4
