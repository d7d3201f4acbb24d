"""Output to the terminal, and the paths of the checkout."""

import os
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
VAR = ROOT / "var"


class Refused(Exception):
    """The agent cannot start. The message says how to fix it."""


class Terminal:
    """Standard output without a buffer, so that a signal cannot lose part of a line. Ignores a closed output."""

    def write(self, text: str) -> None:
        left = text.encode(errors="replace")
        with suppress(OSError):
            while left:
                left = left[os.write(1, left) :]

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return os.isatty(1)


terminal = Terminal()


def say(sentence: str) -> None:
    terminal.write(f"{sentence}\n")
