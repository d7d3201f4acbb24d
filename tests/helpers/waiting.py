"""Waiting for a condition."""

import time
from collections.abc import Callable
from typing import Any


def until(
    condition: Callable[[], Any], seconds: float = 60, complaint: Callable[[], str] = lambda: "it never came true"
) -> Any:
    """The first true answer of `condition`. Raises AssertionError with `complaint` after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError(complaint())
