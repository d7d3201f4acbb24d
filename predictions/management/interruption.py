"""Ctrl-C as something a command can look at, so that it ends its task before it ends itself."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Inside the block the first Ctrl-C (SIGTERM, a closed terminal) is only noted; another one acts as ever.

    A signal that the shell has set to be ignored (`nohup`) stays ignored.
    """

    def __init__(self) -> None:
        self._noted = threading.Event()
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            found = {number: signal.getsignal(number) for number in SIGNALS}
            self._handlers = {number: handler for number, handler in found.items() if handler is not signal.SIG_IGN}
            for number in self._handlers:
                signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._restore()

    def is_noted(self) -> bool:
        return self._noted.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleeps, and wakes when it is noted; whether it is."""
        return self._noted.wait(seconds)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted.set()
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
