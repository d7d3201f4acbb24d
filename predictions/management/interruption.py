"""Ctrl-C as an event that a command can look at, so that it ends its task before it ends itself."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruption() -> Iterator[threading.Event]:
    """Inside the block the first Ctrl-C (SIGTERM, a closed terminal) only sets the event; another one acts as ever.

    A signal that the shell has set to be ignored (`nohup`) stays ignored.
    """
    interrupted = threading.Event()
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    if threading.current_thread() is not threading.main_thread():  # no other thread may set handlers
        handlers.clear()

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def note(*_: object) -> None:
        interrupted.set()
        restore()

    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield interrupted
    finally:
        restore()
