"""Signals to this script and to its processes."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def catch_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    """Installs a handler, even where a shell ignored the signals for a background job. `nohup` still works."""
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def signal_group(group: int, number: int) -> bool:
    """Signals all processes of a group. Whether there was one."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False


def signal_name(exit_code: int) -> str:
    """` (SIGKILL)` for -9, and for 137, a shell's exit code for it."""
    number = -exit_code if exit_code < 0 else exit_code - 128
    return f" ({signal.Signals(number).name})" if number in set(signal.Signals) else ""
