"""The peers' own virtual environment, `bench/.venv`: made when it is not there, or made for other pins."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

DIRECTORY = Path(__file__).resolve().parent
ROOT = DIRECTORY.parent
REQUIREMENTS = DIRECTORY / "requirements.txt"
PEERS = DIRECTORY / ".venv"
PYTHON = PEERS / "bin" / "python"
_MARK = PEERS / "COMPLETE"


def prepare(say: Callable[[str], None]) -> None:
    """Raises SystemExit, with the end of pip's output, where it cannot be made."""
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
