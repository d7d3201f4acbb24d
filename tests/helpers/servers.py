"""Processes of the agent, as the Procfile starts them, for tests that need the real thing."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import requests
from django.db import connection

from tests.helpers.ports import free_port

ROOT = Path(__file__).resolve().parents[2]


def procfile() -> dict[str, str]:
    """Process type → command."""
    lines = (ROOT / "Procfile").read_text().splitlines()
    return dict(line.split(": ", 1) for line in lines if line.strip())


def database_url() -> str:
    """Where this test's database is, for another process."""
    known = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{known['NAME']}"
    return f"postgres://{known['USER']}:{known['PASSWORD']}@{known['HOST']}:{known['PORT']}/{known['NAME']}"


def environment_of(**environment: str) -> dict[str, str]:
    """The environment of a process of the agent."""
    # This process's settings derive RQ_KEY_PREFIX from its own Redis; other processes derive theirs.
    inherited = {name: value for name, value in os.environ.items() if name != "RQ_KEY_PREFIX"}
    return {
        **inherited,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
        "DATABASE_URL": database_url(),
        "LOG_LEVEL": "INFO",
        "WEB_CONCURRENCY": "1",
        **environment,
    }


class Server:
    """One process of the Procfile, in a session of its own, with its output in a file."""

    def __init__(self, process: str, environment: dict[str, str]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = tempfile.NamedTemporaryFile(prefix=f"{process}-", suffix=".log", delete=False)  # noqa: SIM115
        self.process = subprocess.Popen(
            ["sh", "-c", f"exec env {procfile()[process]}"],
            cwd=ROOT,
            env=environment_of(BIND=f"127.0.0.1:{self.port}", WEBHOOK_BIND=f"127.0.0.1:{self.port}", **environment),
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if process in ("web", "webhook"):
            try:
                self.wait_until_it_answers()
            except AssertionError:
                self.kill()
                raise

    def wait_until_it_answers(self) -> None:
        for _ in range(600):
            if self.process.poll() is not None:
                break
            try:
                if requests.get(f"{self.url}/live", timeout=2).status_code == 200:
                    return
            except requests.RequestException:
                time.sleep(0.05)
        raise AssertionError(f"it did not start: {self.output()}")

    def output(self) -> str:
        return Path(self.log.name).read_text()

    def signal(self, number: int) -> None:
        """To the process alone, as an init system sends it."""
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """Sends SIGKILL to the process and its descendants."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.log.close()

    def memory_mb(self) -> float:
        """Resident memory of the process, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1024
