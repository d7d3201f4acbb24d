"""The .venv that scripts/run makes, and those that it leaves alone."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.checkouts import shell_environment
from tests.helpers.servers import ROOT

MARKER = ".made-by-scripts-run"


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A checkout with what `scripts/run --prepare nothing.txt` reads, and without a .venv."""
    checkout = tmp_path / "agent"
    (checkout / "scripts").mkdir(parents=True)
    shutil.copy2(ROOT / "scripts/run", checkout / "scripts/run")
    shutil.copy2(ROOT / "requirements.txt", checkout / "requirements.txt")
    (checkout / "nothing.txt").touch()
    return checkout


@pytest.fixture(scope="module")
def made_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that scripts/run did not make, at a path of its own."""
    place = tmp_path_factory.mktemp("somebody's") / "environment"
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    return place


def prepare(checkout: Path, file: str = "nothing.txt", **environment: str) -> subprocess.CompletedProcess[str]:
    return run_with(checkout, "--prepare", file, **environment)


def run_with(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["scripts/run", *arguments],
        cwd=checkout,
        env={**shell_environment(), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def tree(directory: Path) -> dict[str, str]:
    """Path below the directory → time of its last change, or the target of a symlink."""
    return {
        str(path.relative_to(directory)): str(path.readlink()) if path.is_symlink() else f"{path.stat().st_mtime_ns}"
        for path in directory.rglob("*")
    }


def works(venv: Path) -> bool:
    asked = subprocess.run([venv / "bin/python", "-m", "pip", "--version"], capture_output=True, text=True, check=False)
    return asked.returncode == 0 and str(venv.resolve()) in asked.stdout


def test_run_marks_the_venv_that_it_makes(bare: Path) -> None:
    assert prepare(bare).returncode == 0
    assert works(bare / ".venv")
    assert (bare / ".venv" / MARKER).is_file()


@pytest.mark.slow
def test_a_venv_of_its_own_that_was_moved_is_made_again(bare: Path, made_elsewhere: Path) -> None:
    shutil.copytree(made_elsewhere, bare / ".venv", symlinks=True)
    (bare / ".venv" / MARKER).touch()
    (bare / ".venv/old").touch()
    done = prepare(bare)
    assert (done.returncode, "Creating .venv" in done.stderr) == (0, True)
    assert str(bare / ".venv/bin/python") in (bare / ".venv/bin/pip").read_text()
    assert (bare / ".venv" / MARKER).is_file()
    assert not (bare / ".venv/old").exists()


@pytest.mark.slow
def test_a_venv_of_its_own_that_is_half_made_is_made_again(bare: Path) -> None:
    (bare / ".venv/bin").mkdir(parents=True)
    (bare / ".venv/bin/python").symlink_to("/no/such/python")
    (bare / ".venv" / MARKER).touch()
    assert prepare(bare).returncode == 0
    assert works(bare / ".venv")
    assert "Creating" not in prepare(bare).stderr


@pytest.mark.slow
def test_an_activated_venv_of_its_own_can_be_made_again(bare: Path, made_elsewhere: Path) -> None:
    shutil.copytree(made_elsewhere, bare / ".venv", symlinks=True)
    (bare / ".venv" / MARKER).touch()
    done = prepare(bare, PATH=f"{bare / '.venv/bin'}{os.pathsep}{os.environ['PATH']}")
    assert (done.returncode, "Creating .venv" in done.stderr) == (0, True)
    assert works(bare / ".venv")


@pytest.mark.parametrize("how", ["copied", "linked"])
def test_a_working_foreign_venv_is_used_unchanged(bare: Path, made_elsewhere: Path, how: str) -> None:
    theirs = bare.parent / "theirs" if how == "linked" else bare / ".venv"
    shutil.copytree(made_elsewhere, theirs, symlinks=True)
    if how == "linked":
        (bare / ".venv").symlink_to(theirs)
    (theirs / "precious").touch()
    before = tree(theirs)
    done = prepare(bare)
    assert (done.returncode, "Creating" in done.stderr) == (0, False), done.stderr
    assert {name: seen for name, seen in tree(theirs).items() if name in before and seen != before[name]} == {}
    assert before.keys() <= tree(theirs).keys()
    assert not (theirs / MARKER).exists()
    assert (theirs / ".installed-nothing.txt").is_file()


def test_the_programs_of_a_venv_that_was_moved_are_installed_again(bare: Path, made_elsewhere: Path) -> None:
    """gunicorn's first line names the Python that it was installed for."""
    shutil.copytree(made_elsewhere, bare / ".venv", symlinks=True)
    (bare / "one.txt").write_text(str(wheel_of_a_program("gunicorn", bare.parent)))
    assert prepare(bare, "one.txt").returncode == 0
    moved = bare.rename(bare.parent / "moved")
    assert prepare(moved, "one.txt").returncode == 0
    said = subprocess.run([moved / ".venv/bin/gunicorn"], capture_output=True, text=True, check=True)
    assert said.stdout == f"{moved / '.venv'}\n"
    assert "Installing" not in prepare(moved, "one.txt").stderr


def wheel_of_a_program(name: str, directory: Path) -> Path:
    """A wheel with one program, which prints the virtual environment that it runs in."""
    wheel = directory / f"{name}-1-py3-none-any.whl"
    about = f"{name}-1.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}.py", "import sys\ndef main(): print(sys.prefix)\n")
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/entry_points.txt", f"[console_scripts]\n{name} = {name}:main\n")
        archive.writestr(f"{about}/RECORD", "")
    return wheel


def an_empty_directory(venv: Path) -> None:
    venv.mkdir()


def somebodys_files(venv: Path) -> None:
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").symlink_to("/no/such/python")
    (venv / "precious").write_text("notes")


def a_python_without_pip(venv: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)


def a_python_that_is_too_old(venv: Path) -> None:
    """It answers as Python 3.10 would: no to the question whether it is 3.11 or later."""
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").write_text("#!/bin/sh\nexit 1\n")
    (venv / "bin/python").chmod(0o755)


def a_file(venv: Path) -> None:
    venv.write_text("notes")


def a_link_to_nowhere(venv: Path) -> None:
    venv.symlink_to("nowhere")


def a_link_to_a_broken_one_with_a_marker(venv: Path) -> None:
    theirs = venv.parent / "theirs"
    somebodys_files(theirs)
    (theirs / MARKER).touch()
    venv.symlink_to(theirs)


NO_VENVS = [
    an_empty_directory,
    somebodys_files,
    a_python_without_pip,
    a_python_that_is_too_old,
    a_file,
    a_link_to_nowhere,
    a_link_to_a_broken_one_with_a_marker,
]


@pytest.mark.parametrize("put", NO_VENVS, ids=lambda put: put.__name__)
def test_a_broken_foreign_venv_is_refused_and_left_unchanged(bare: Path, put: Callable[[Path], None]) -> None:
    put(bare / ".venv")
    before = tree(bare)
    done = prepare(bare)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "move it away or remove it, then run scripts/run again" in done.stderr
    assert tree(bare) == before


def test_a_python_below_3_11_is_refused_by_its_version(bare: Path, tmp_path: Path) -> None:
    pythons = tmp_path / "pythons"
    pythons.mkdir()
    for name in ("python3", "python3.14", "python3.13", "python3.12", "python3.11"):
        program = "import sys; sys.version_info = (3, 10, 14, 'final', 0)"
        (pythons / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{program}\n$2"\n')
        (pythons / name).chmod(0o755)
    done = prepare(bare, PATH=f"{pythons}{os.pathsep}{os.environ['PATH']}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Python 3.11 or later is needed and this machine has 3.10" in done.stderr
    assert not (bare / ".venv").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--prepare", "--help"]], ids=" ".join)
@pytest.mark.parametrize("put", [None, somebodys_files])
def test_help_prints_the_usage_and_touches_nothing(
    bare: Path, put: Callable[[Path], None] | None, arguments: list[str]
) -> None:
    if put:
        put(bare / ".venv")
    before = tree(bare)
    done = run_with(bare, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: scripts/run")
    assert "--prepare" in done.stdout
    assert tree(bare) == before


@pytest.mark.parametrize(
    "arguments",
    [["--nonsense"], ["start"], ["--prepare", "--nonsense"], ["--prepare", "nothing.txt", "more.txt"], [""]],
    ids=" ".join,
)
def test_an_unknown_argument_is_refused_before_anything_is_made(bare: Path, arguments: list[str]) -> None:
    before = tree(bare)
    done = run_with(bare, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"scripts/run: unknown argument '{arguments[-1]}'\nusage: scripts/run")
    assert tree(bare) == before
