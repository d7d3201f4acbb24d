"""The check of the lock files finds each way in which they can differ from the requirements."""

import shutil
from pathlib import Path

import pytest

from scripts import locks
from tests.helpers.servers import ROOT

HASH = f"--hash=sha256:{'0' * 64}"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with a copy of this project's requirements and locks."""
    for name in locks.NAMES:
        shutil.copy2(ROOT / f"{name}.txt", tmp_path)
        shutil.copy2(ROOT / f"{name}.lock", tmp_path)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_locks_fit_the_requirements() -> None:
    assert locks.problems() == []


def test_each_lock_holds_more_than_the_requirements_name() -> None:
    for name in locks.NAMES:
        assert locks.pins(ROOT / f"{name}.txt").keys() < locks.locked((ROOT / f"{name}.lock").read_text()).keys()


def test_a_pin_that_the_lock_has_in_another_version_is_found(project: Path) -> None:
    edit(project / "requirements-dev.txt", "trustme==", "trustme==9")
    (problem,) = locks.problems(project)
    assert problem.startswith("requirements-dev.lock lacks trustme 9")


def test_a_new_pin_is_found_in_each_lock_that_includes_it(project: Path) -> None:
    with (project / "requirements-run.txt").open("a") as file:
        file.write("new-package[extra]==1.0; sys_platform == 'linux'\n")
    assert locks.problems(project) == [
        "requirements-run.lock lacks new-package 1.0.",
        "requirements-dev.lock lacks new-package 1.0.",
    ]


def test_a_pin_that_is_gone_is_found(project: Path) -> None:
    lines = (project / "requirements-dev.txt").read_text().splitlines(keepends=True)
    (project / "requirements-dev.txt").write_text("".join(line for line in lines if not line.startswith("trustme")))
    assert locks.problems(project) == [
        "requirements-dev.lock has trustme, which requirements-dev.txt no longer requires."
    ]


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("loose>=1 \\\n    " + HASH, "has loose without a version or hashes"),
        ("bare==1", "has bare without a version or hashes"),
        (f"--extra-index-url https://packages.example.com/simple\nown==1 \\\n    {HASH}", "names a package index"),
        (f"own @ https://packages.example.com/own-1.tar.gz \\\n    {HASH}", "names a package index"),
    ],
)
def test_a_package_without_a_version_or_hashes_and_an_index_are_found(project: Path, entry: str, problem: str) -> None:
    with (project / "requirements-dev.lock").open("a") as file:
        file.write(f"{entry}\n    # via something\n")
    assert any(found.startswith(f"requirements-dev.lock {problem}") for found in locks.problems(project))


def test_locks_that_differ_are_found(project: Path) -> None:
    edit(project / "requirements.lock", "sqlparse==", "sqlparse==9")
    assert locks.problems(project) == ["requirements.lock and requirements-dev.lock differ in sqlparse."]


def test_check_runs_it() -> None:
    assert "scripts/locks.py" in (ROOT / "scripts/check").read_text()
