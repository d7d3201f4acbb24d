"""Databases that one test may restart, freeze or fill, apart from the shared one."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import environ
from django.db import connections

from tests.helpers import postgres
from tests.helpers.servers import ROOT


@contextmanager
def reachable_here(url: str) -> Iterator[str]:
    """A migrated database as this process reads it; yields its Django alias."""
    manage("migrate", "--noinput", "--verbosity", "0", DATABASE_URL=url)
    connections.settings["own"] = {**connections.settings["default"], **environ.Env.db_url_config(url), "OPTIONS": {}}
    try:
        yield "own"
    finally:
        connections["own"].close()
        del connections["own"]
        del connections.settings["own"]


def manage(*command: str, **environment: str) -> str:
    """What `manage.py` prints. Raises CalledProcessError."""
    return subprocess.run(
        [sys.executable, "manage.py", *command],
        cwd=ROOT,
        env={**os.environ, **environment},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


class Postgres:
    """A real server."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="agent-postgres-"))
        self.url = postgres.start(self._directory).removesuffix("/agent") + "/postgres"

    def restart(self, mode: str) -> None:
        """`fast`: sessions are ended; `immediate`: as after a crash."""
        postgres.control(self._directory, "-m", mode, "restart")

    def stop(self) -> None:
        postgres.control(self._directory, "-m", "immediate", "stop")

    def start_again(self) -> None:
        postgres.control(self._directory, "start")

    def log(self) -> str:
        """Its log since it was created."""
        return (self._directory / "log").read_text()

    def freeze(self) -> None:
        """All its processes stand still; its kernel goes on accepting connections and acknowledging packets."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        postmaster = int((self._directory / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, number)
        for child in Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split():
            with suppress(ProcessLookupError):  # it was about to end
                os.kill(int(child), number)

    def close(self) -> None:
        self.thaw()
        postgres.stop(self._directory)
        shutil.rmtree(self._directory, ignore_errors=True)
