"""Checks, without a network, that the locks fit the requirements: .venv/bin/python scripts/locks.py.

Every pin of requirements*.txt is in its lock with the same version, every locked package has a version and hashes, the
three locks agree, and none names a package index. `scripts/lock` writes the locks.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("requirements", "requirements-run", "requirements-dev")
INDEX = re.compile(r"^\s*--?(?:i|f|(?:extra-)?index-url|find-links)\b|://", re.MULTILINE)


@dataclass(frozen=True)
class Locked:
    version: str  # empty unless pinned by ==
    hashes: int
    is_direct: bool  # a requirements file names the package


def pins(path: Path) -> dict[str, str]:
    """Package → version, of a requirements file and those that it includes."""
    found: dict[str, str] = {}
    for line in path.read_text().splitlines():
        if line.startswith("-r "):
            found |= pins(path.with_name(line.removeprefix("-r ").strip()))
        elif line.strip() and not line.startswith("#"):
            requirement = Requirement(line)
            found[canonicalize_name(requirement.name)] = _version(requirement)
    return found


def locked(text: str) -> dict[str, Locked]:
    """Package → its entry in a lock."""
    found: dict[str, Locked] = {}
    for entry in re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]:
        requirement = Requirement(entry.splitlines()[0].removesuffix("\\"))
        hashes = len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry))
        is_direct = re.search(r"^ +# .*-r requirements", entry, re.MULTILINE) is not None
        found[canonicalize_name(requirement.name)] = Locked(_version(requirement), hashes, is_direct)
    return found


def _version(requirement: Requirement) -> str:
    exact = re.fullmatch(r"==([^*,]+)", str(requirement.specifier))
    return exact[1] if exact else ""


def problems(root: Path = ROOT) -> list[str]:
    """A sentence for each problem."""
    found = []
    everything = locked((root / f"{NAMES[-1]}.lock").read_text())
    for name in NAMES:
        wanted = pins(root / f"{name}.txt")
        text = (root / f"{name}.lock").read_text()
        lock = locked(text)
        if INDEX.search(text):
            found.append(f"{name}.lock names a package index.")
        for package, version in wanted.items():
            if package not in lock or lock[package].version != version:
                found.append(f"{name}.lock lacks {package} {version}.")
        for package, entry in lock.items():
            if not entry.version or not entry.hashes:
                found.append(f"{name}.lock has {package} without a version or hashes.")
            if entry.is_direct and package not in wanted:
                found.append(f"{name}.lock has {package}, which {name}.txt no longer requires.")
            if package not in everything or everything[package].version != entry.version:
                found.append(f"{name}.lock and {NAMES[-1]}.lock differ in {package}.")
    return found


if __name__ == "__main__":
    sentences = problems()
    if sentences:
        sys.stderr.write("\n".join(["locks: run scripts/lock:", *sentences, ""]))
    sys.exit(bool(sentences))
