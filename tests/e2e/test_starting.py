"""SIGTERM to a process that is still starting: it ends, and does not wait for what never began."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.servers import ROOT, database_url, procfile

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("process", ["web", "worker", "scheduler"])
def test_a_process_that_is_still_starting_ends_when_it_is_told_to(process: str) -> None:
    """At many moments: before Python listens to signals, while gunicorn forks, while Django is loaded, and after."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DATABASE_URL": database_url(),
        "BIND": f"127.0.0.1:{free_port()}",
    }
    took = []
    for step in range(8):
        started = subprocess.Popen(
            ["sh", "-c", f"exec env {procfile()[process]}"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            time.sleep(0.2 + step * 0.14)
            started.send_signal(signal.SIGTERM)
            began = time.monotonic()
            started.wait(60)
            took.append(time.monotonic() - began)
        finally:
            if started.poll() is None:
                os.killpg(started.pid, signal.SIGKILL)
                started.wait()
    print(f"\n{process} ended {max(took):.1f} s after SIGTERM at the latest")
