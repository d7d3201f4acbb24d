"""How findings put things."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from platforms import Health
from platforms.health import warning

SHORT_BYTES = 500 * 1024 * 1024
SHORT_SHARE = 0.02


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class name where the message is empty."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def root_of(error: BaseException) -> str:
    """What lies at the bottom of an error, in its first line; empty where nothing does.

    It does not follow causes that `from None` suppressed: they may hold a key.
    """
    root = error
    while below := root.__cause__ or (None if root.__suppress_context__ else root.__context__):
        root = below
    return "" if root is error else first_line(root)


def because(error: BaseException) -> str:
    """The error's message, with its root cause in brackets."""
    root = root_of(error)
    return f"{str(error).rstrip('.')} ({root})" if root else str(error)


def full_stop(words: str) -> str:
    """The words with a full stop, unless they end a sentence already."""
    words = words.rstrip()
    return words if words.endswith((".", "!", "?", "…")) else f"{words}."


def span(seconds: float) -> str:
    """`40 s`, `5 min`, `3 h`, `2 days`."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def check_disk(directory: Path) -> Iterator[Health]:
    """Warns of a disk that is nearly full; says nothing where the directory is not there yet."""
    if not directory.is_dir():
        return
    usage = shutil.disk_usage(directory)
    if usage.free <= max(SHORT_BYTES, SHORT_SHARE * usage.total):
        left = f"its disk has {usage.free // 2**20} MiB left"
        yield warning(left, "Make room, or lower TASK_RETENTION and run `manage.py purge_tasks`.")
