"""`kill -9` of gunicorn's master, and the next one on the same port."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from tests.helpers.ports import free_port
from tests.helpers.servers import ROOT, environment_of, procfile
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow


class Web:
    """The Procfile's `web` on a port of the test's choice, as a supervisor starts it."""

    def __init__(self, port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                ["sh", "-c", f"exec env {procfile()['web']}"],
                cwd=ROOT,
                env=environment_of(BIND=f"127.0.0.1:{port}", WEB_CONCURRENCY="2"),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/live", timeout=1).ok
        except requests.RequestException:
            return False

    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def kill_master(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Web]]:
    port = free_port()
    started: list[Web] = []

    def start() -> Web:
        started.append(Web(port, tmp_path / f"web-{len(started)}.log"))
        return started[-1]

    yield start
    for web in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(web.process.pid, signal.SIGKILL)
        web.process.wait()


def test_the_next_master_waits_for_the_port_that_stopped_orphans_hold(start: Callable[[], Web]) -> None:
    """Longer than gunicorn's own five tries; it serves as soon as the supervisor has killed them."""
    first = start()
    until(first.answers)
    orphans = first.workers()
    assert len(orphans) == 2
    for pid in orphans:
        os.kill(pid, signal.SIGSTOP)
    first.kill_master()
    second = start()
    until(lambda: "waiting for it" in second.log.read_text())
    time.sleep(8)
    assert second.process.poll() is None
    for pid in orphans:
        os.kill(pid, signal.SIGKILL)
    until(second.answers)
    assert second.log.read_text().count("waiting for it") == 1


def test_orphans_that_run_end_by_themselves_and_free_the_port(start: Callable[[], Web]) -> None:
    first = start()
    until(first.answers)
    orphans = first.workers()
    first.kill_master()
    second = start()
    until(second.answers)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans))
    assert len(second.workers()) == 2


def test_a_master_that_waits_ends_at_sigterm(start: Callable[[], Web]) -> None:
    first = start()
    until(first.answers)
    second = start()
    until(lambda: "waiting for it" in second.log.read_text())
    second.process.terminate()
    second.process.wait(30)
    assert first.answers()
