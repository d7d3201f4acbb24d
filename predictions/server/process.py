"""How a process of the agent that runs for long treats the machine: what the collector looks at, and on which core its
threads run.
"""

import gc
import logging
import os
import secrets
import threading
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

FIRST_LOOK_SECONDS = 0.5
LOOK_EVERY_SECONDS = 5.0
FREER_BY = 0.25
"""So much more of a core must be free, as a share of it, for the threads to move there: moving costs warm caches."""
_STAT, _THREADS = Path("/proc/stat"), Path("/proc/self/task")
_IDLE = (3, 4)  # idle, iowait
_COUNTED = 8  # of /proc/stat's columns; what follows is part of the first two


def leave_what_is_loaded(*, collect_after: int) -> None:
    """What is loaded stays: the collector need not look at it again and again, nor at each task's few objects.

    It looks at the others whenever there are `collect_after` more: more often is less memory, and more work.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(collect_after, *gc.get_threshold()[1:])


def keep_to_one_core() -> None:
    """From now on this process's threads share one core, that which others leave most of; looked at again and again.

    Python runs them one at a time in any case. With two cores to choose from, the kernel wakes the next thread on the
    other one, whose caches know nothing of what the threads share. Does nothing where the system knows no affinity
    (only Linux does) or leaves one core anyhow. Processes that are started later inherit the core.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
    if len(allowed) > 1:
        threading.Thread(target=_keep, args=(allowed,), name="affinity", daemon=True).start()


@dataclass(frozen=True, slots=True)
class Look:
    """Seconds: when it was, how long this process had run by then, and how long each core had been busy."""

    at: float
    own: float
    busy: Mapping[int, float]


def _keep(allowed: Collection[int]) -> None:
    core = None
    try:
        last = look()
        while True:
            time.sleep(LOOK_EVERY_SECONDS if core is not None else FIRST_LOOK_SECONDS)
            now = look()
            core = choose(core, allowed, last, now)
            move_to([core])
            last = now
    except OSError as error:  # a container's cores were changed, or its rules forbid it
        logger.info("the threads no longer keep to one core: %s", error)
        with suppress(OSError):
            move_to(allowed)


def choose(core: int | None, allowed: Collection[int], last: Look, now: Look) -> int:
    """The core to run on from `now`: the one so far, unless others leave clearly more of another.

    Then only every second time, for of two processes that find each other on a core one shall stay.
    """
    taken = {number: now.busy.get(number, 0.0) - last.busy.get(number, 0.0) for number in allowed}
    freest = min(taken, key=lambda number: taken[number])
    if core is None:
        return freest
    taken[core] -= now.own - last.own
    is_freer = taken[core] - taken[freest] > FREER_BY * (now.at - last.at)
    return freest if is_freer and secrets.randbelow(2) else core


def look() -> Look:
    """Raises OSError where there is no /proc/stat."""
    return Look(time.monotonic(), time.process_time(), busy_seconds(_STAT.read_text()))


def busy_seconds(stat: str) -> dict[int, float]:
    """How long each core was not idle since the machine started, as /proc/stat has it: see proc_stat(5)."""
    tick = 1 / os.sysconf("SC_CLK_TCK")
    busy = {}
    for line in stat.splitlines():
        name, *columns = line.split()
        if name.startswith("cpu") and name != "cpu":
            ticks = [int(column) for column in columns[:_COUNTED]]
            busy[int(name[3:])] = tick * (sum(ticks) - sum(ticks[column] for column in _IDLE))
    return busy


def move_to(cores: Collection[int]) -> None:
    """Lets all threads of this process run on these cores alone. Raises OSError."""
    for thread in os.listdir(_THREADS):
        with suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(int(thread), cores)
