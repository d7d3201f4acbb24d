"""A peer: another project's server as a process, with a session of its own and its output in a log."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import requests

from tests.helpers.virtualenvs import tail

START_SECONDS = 120.0
STOP_SECONDS = 40.0
KEPT = ("HOME", "LANG", "PATH", "TMPDIR")


class Peer:
    """Starts `command` and waits until `GET url` is answered, whatever the status; ended with `stop` or `kill`.

    It gets a small environment, without the tests' database and settings.
    """

    def __init__(self, command: Sequence[str], *, url: str, log: Path, environment: Mapping[str, str]) -> None:
        self.command = list(command)
        self.url = url
        self.log = log
        self.environment = {**{name: os.environ[name] for name in KEPT if name in os.environ}, **environment}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Also starts it again, after `stop` or `kill`, on the same port."""
        assert self.process is None, "it runs already"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.log.parent,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """SIGTERM, as Kubernetes sends it, and waits until it has ended."""
        self.terminate()
        self.wait()

    def terminate(self) -> None:
        """SIGTERM to the process alone; it may take its time."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        assert self.process is not None
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {STOP_SECONDS:g} s of SIGTERM:\n{self.output()}") from None
        finally:
            self.kill()

    def kill(self) -> None:
        """Sends SIGKILL to the process and its descendants."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def output(self) -> str:
        """The end of its log."""
        return tail(self.log)

    def _wait_until_it_answers(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + START_SECONDS
        with requests.Session() as session:
            session.trust_env = False
            while time.monotonic() < deadline:
                if self.process.poll() is not None:
                    break
                with suppress(requests.RequestException):
                    session.get(self.url, timeout=2, allow_redirects=False)
                    return
                time.sleep(0.05)
        raise AssertionError(f"{self.command[0]} did not start; the end of {self.log}:\n{self.output()}")
