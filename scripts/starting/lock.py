"""Allows one agent at a time in a checkout."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scripts.starting.terminal import VAR, Refused, say

PATIENCE_SECONDS = 30
"""How long to wait for the processes of a killed agent to end."""


@contextmanager
def only_one() -> Iterator[None]:
    """Holds var/run.lock. The processes of a killed agent hold it too, until they have ended."""
    VAR.mkdir(exist_ok=True)
    with (VAR / "run.lock").open("a+") as lock:
        deadline = time.monotonic() + PATIENCE_SECONDS
        told = False
        while not _claimed(lock.fileno()):
            lock.seek(0)
            owner = lock.read().strip()
            if not (_is_alive(owner) or told):
                say("An agent was killed here. Waiting for its processes to end ...")
                told = True
            if _is_alive(owner) or time.monotonic() > deadline:
                raise Refused(f"The agent runs here already, as process {owner}: stop it first (Ctrl-C or kill).")
            time.sleep(0.2)
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def _claimed(lock: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _is_alive(pid: str) -> bool:
    if not pid:
        return True  # it has the lock but has not written its process id yet
    with suppress(FileNotFoundError, ProcessLookupError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"  # a zombie: killed, but its parent has not waited for it
    return False
