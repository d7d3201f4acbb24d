"""Virtual environments for the peers: each made once, and kept in var/peers between runs.

    var/peers/kserve-0.21.0-1.9.1/        the environment; COMPLETE in it says that it was finished, and for what
    var/peers/kserve-0.21.0-1.9.1.log     what venv and pip said
    var/peers/kserve-0.21.0-1.9.1.lock    held while one is looked at or made

New pins make a new directory; the old one may be deleted at any time.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tests.helpers.servers import ROOT

DIRECTORY = ROOT / "var" / "peers"
INSTALL_SECONDS = 1800
SHOWN_LINES = 60


class EnvironmentNotMadeError(Exception):
    """The message names the failed command and has the end of its output."""


class NoPythonError(EnvironmentNotMadeError):
    """This machine has none of the versions that it needs."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment with `requirements` (each pinned: `name==version`) on one of the Python versions `pythons`.

    The version that runs the tests is preferred; another one is looked for in PATH, as `python3.X`, and among pyenv's.
    """

    name: str
    requirements: tuple[str, ...]
    pythons: tuple[str, ...]
    directory: Path = DIRECTORY

    @property
    def path(self) -> Path:
        versions = "-".join(requirement.split("==")[1] for requirement in self.requirements)
        return self.directory / f"{self.name}-{versions}"

    @property
    def log(self) -> Path:
        return self.path.with_name(f"{self.path.name}.log")

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    def ready(self) -> "Environment":
        """Itself, made if it was not there or not whole. Raises EnvironmentNotMadeError."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if not self.is_whole():
                self._make()
        return self

    def is_whole(self) -> bool:
        """Whether it was finished, with these requirements and in this place, and its Python still starts."""
        try:
            return self._mark.read_text() == self._description and _starts(str(self.python), "pip")
        except OSError:
            return False

    @property
    def _mark(self) -> Path:
        return self.path / "COMPLETE"

    @property
    def _description(self) -> str:
        return "\n".join([str(self.path), *self.requirements, ""])

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self.path.with_name(f"{self.path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self.log.write_text("")
        self._run(self._base_python(), "-m", "venv", str(self.path))
        self._run(str(self.python), "-m", "pip", "install", "--no-input", "--progress-bar=off", *self.requirements)
        self._mark.write_text(self._description)

    def _base_python(self) -> str:
        own = f"{sys.version_info.major}.{sys.version_info.minor}"
        if own in self.pythons:
            return sys.executable
        for python in chain.from_iterable(_installed(version) for version in self.pythons):
            if _starts(python, "ensurepip, venv"):
                return python
        wanted = " or ".join(self.pythons)
        raise NoPythonError(f"{self.name} needs Python {wanted}; this is {own}, and neither PATH nor pyenv has it")

    def _run(self, *command: str) -> None:
        with self.log.open("a") as log:
            log.write(f"$ {' '.join(command)}\n")
            log.flush()
            try:
                ended = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, timeout=INSTALL_SECONDS
                )
                problem = f"ended with {ended.returncode}" if ended.returncode else ""
            except subprocess.TimeoutExpired:
                problem = f"took longer than {INSTALL_SECONDS} s"
        if problem:
            raise EnvironmentNotMadeError(
                f"the virtual environment of {self.name} could not be made: {' '.join(command)} {problem}; the end of"
                f" {self.log}:\n{tail(self.log)}"
            )


def _installed(version: str) -> Iterator[str]:
    """Interpreters of this version on this machine, those that PATH names first."""
    if found := shutil.which(f"python{version}"):
        yield found
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}")))


def _starts(python: str, modules: str) -> bool:
    try:
        ended = subprocess.run([python, "-c", f"import {modules}"], capture_output=True, timeout=60)
    except OSError:
        return False
    return ended.returncode == 0


def tail(log: Path, lines: int = SHOWN_LINES) -> str:
    """The last lines of a log, without colours."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))
    return "\n".join(text.splitlines()[-lines:])
