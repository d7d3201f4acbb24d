"""Debian root file systems, made by debootstrap."""

import shutil
import subprocess
from pathlib import Path

BUILD_SECONDS = 900


class RootNotMadeError(Exception):
    """debootstrap failed. The message tells where its log is."""


def make_root(root: Path, suite: str, packages: str, *, log: Path) -> None:
    """Installs a minimal Debian in `root`. pip there uses the same package index as on this machine.

    `packages` are names separated by commas. Raises RootNotMadeError.
    """
    command = ["debootstrap", "--variant=minbase", f"--include={packages}", suite, str(root)]
    with log.open("w") as output:
        if subprocess.run(command, stdout=output, stderr=output, timeout=BUILD_SECONDS).returncode:
            raise RootNotMadeError(f"{' '.join(command)} failed: see {log}")
    for path in ("/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf"):
        if Path(path).exists() and (root / path[1:]).parent.is_dir():
            shutil.copy(path, root / path[1:])
