"""Progress on stderr, signals, and the limit on open files, for all commands of the benchmark."""

import resource
import signal
import sys
import time
from types import FrameType

_began = time.monotonic()


def say(text: str) -> None:
    print(f"{time.monotonic() - _began:6.0f} s  {text}", file=sys.stderr, flush=True)


def set_up() -> None:
    """Ends the benchmark's processes on SIGTERM and SIGINT, and allows as many open files as the system does."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs with SIGINT ignored
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit("ended by a signal")
