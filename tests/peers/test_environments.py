"""The virtual environments of the peers: made once, remade when half made, and loud when they cannot be made."""

import ensurepip
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.virtualenvs import Environment, EnvironmentNotMadeError

pytestmark = pytest.mark.slow

PYTHONS = ("3.14", "3.13", "3.12", "3.11")
PRESENT = f"pip=={ensurepip.version()}"
"""A requirement that every new environment meets, so nothing is fetched."""


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment("peer", (PRESENT,), PYTHONS, directory=tmp_path / "peers")


def test_an_environment_is_made_once(environment: Environment) -> None:
    with ThreadPoolExecutor() as pool:
        assert len(list(pool.map(lambda _: environment.ready(), range(3)))) == 3
    assert environment.path.name == f"peer-{ensurepip.version()}"
    assert environment.log.read_text().count(" -m venv ") == 1
    environment.ready()
    assert environment.log.read_text().count(" -m venv ") == 1


def test_a_half_made_environment_is_made_again(environment: Environment) -> None:
    (environment.path / "bin").mkdir(parents=True)
    (environment.path / "bin" / "left-over").write_text("")
    environment.ready()
    assert environment.is_whole()
    assert not (environment.path / "bin" / "left-over").exists()

    environment.python.unlink()  # as when the Python it was made with is gone
    assert not environment.is_whole()
    environment.ready()
    assert environment.is_whole()

    moved = environment.directory.with_name("moved")
    shutil.move(environment.directory, moved)  # its scripts name the place where it was made
    assert not Environment("peer", (PRESENT,), PYTHONS, directory=moved).is_whole()


def test_what_pip_said_is_shown_when_it_fails(tmp_path: Path) -> None:
    environment = Environment("broken", ("not a requirement==1",), PYTHONS, directory=tmp_path)
    with pytest.raises(EnvironmentNotMadeError, match=r"(?s)broken could not be made.*Invalid requirement"):
        environment.ready()
    assert not environment.is_whole()


def test_a_python_that_is_not_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "PATH", str(tmp_path))
    environment = Environment("old", (PRESENT,), ("2.7",), directory=tmp_path)
    with pytest.raises(EnvironmentNotMadeError, match=r"old needs Python 2\.7"):
        environment.ready()
