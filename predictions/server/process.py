"""How a long-running process of the agent uses the garbage collector and the CPU cores."""

import gc
import os
import secrets
from contextlib import suppress


def spare_collector(*, collect_after: int) -> None:
    """Excludes all objects loaded so far from garbage collection, and collects after so many new ones.

    A smaller `collect_after` saves memory and costs CPU.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(collect_after, *gc.get_threshold()[1:])


def pin_to_one_core() -> None:
    """Pins this thread, and those that it starts, to one of the process's cores, chosen at random. Linux only.

    Python runs one thread at a time. On several cores, threads that wait for I/O lose more time by passing on the
    interpreter's lock than they gain.
    """
    if hasattr(os, "sched_setaffinity"):
        with suppress(OSError):  # the rules of a container can forbid it
            os.sched_setaffinity(0, {secrets.choice(sorted(os.sched_getaffinity(0)))})
