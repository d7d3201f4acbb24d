"""One agent in a checkout at a time."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scripts.starting.terminal import VAR, Refused, say

PATIENCE_SECONDS = 30
"""How long what a killed agent left behind may take to end."""


@contextmanager
def only_one() -> Iterator[None]:
    """Holds var/run.lock. What an agent that was killed left behind holds it too, for the seconds it takes to end."""
    VAR.mkdir(exist_ok=True)
    with (VAR / "run.lock").open("a+") as lock:
        deadline = time.monotonic() + PATIENCE_SECONDS
        told = False
        while not _claimed(lock.fileno()):
            lock.seek(0)
            owner = lock.read().strip()
            if not (_is_alive(owner) or told):
                say("An agent was killed here; waiting for what it left to end ...")
                told = True
            if _is_alive(owner) or time.monotonic() > deadline:
                raise Refused(f"The agent runs here already, as process {owner}: end that one first (Ctrl-C, or kill).")
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
        return True  # it holds the lock and is about to write its number
    with suppress(FileNotFoundError, ProcessLookupError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"  # killed, and not yet noticed by its parent
    return False
