"""Where the measured code lives: checkouts of the agent, and the virtual environment of the peers, `bench/.venv`."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

DIRECTORY = Path(__file__).resolve().parent
ROOT = DIRECTORY.parent
REQUIREMENTS = DIRECTORY / "requirements.txt"
PEERS = DIRECTORY / ".venv"
PYTHON = PEERS / "bin" / "python"
SETTINGS = {"ENV_FILE": os.devnull, "ALLOW_ANONYMOUS": "true", "SECRET_KEY": "only-for-the-benchmark-" + "x" * 40}
_MARK = PEERS / "COMPLETE"


@dataclass(frozen=True)
class Checkout:
    """A directory with the agent's code. It is only run, never imported, so it needs no `bench`."""

    directory: Path = ROOT
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables for its processes, besides those that every agent here gets."""

    @property
    def programs(self) -> Path:
        """The directory of its `python` and `gunicorn`: its own `.venv`, or else the one that runs the benchmark."""
        own = self.directory / ".venv" / "bin"
        return own if (own / "python").exists() and self.directory != ROOT else Path(sys.executable).parent

    def environment(self) -> dict[str, str]:
        """The environment of all its processes; nothing else is inherited, PYTHONPATH least of all."""
        path = f"{self.programs}:{os.environ.get('PATH', '/usr/local/bin:/usr/bin:/bin')}"
        return {**SETTINGS, "PATH": path, **self.variables}


def prepare(say: Callable[[str], None]) -> None:
    """Makes `bench/.venv` if it is missing or has other versions. Raises SystemExit with the end of pip's output."""
    wanted = REQUIREMENTS.read_text()
    if _MARK.is_file() and _MARK.read_text() == wanted:
        return
    say(f"installing {REQUIREMENTS.relative_to(ROOT)} into {PEERS.relative_to(ROOT)} (once) …")
    _run(sys.executable, "-m", "venv", str(PEERS))
    _run(str(PYTHON), "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "-qr", str(REQUIREMENTS))
    _MARK.write_text(wanted)


def versions(*names: str) -> dict[str, str]:
    """The peers' libraries → their versions."""
    pins = dict(line.split("==") for line in REQUIREMENTS.read_text().splitlines() if "==" in line)
    plain = {name.split("[")[0].lower(): version for name, version in pins.items()}
    return {name: plain[name.lower()] for name in names}


def _run(*command: str) -> None:
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{ended.stdout[-3000:]}")
