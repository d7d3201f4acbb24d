"""Whether this web process is ending: then it takes no new predictions and finishes those in flight."""

from collections.abc import Callable

NEW_PREDICTIONS = ("/v1/predict", "/async/v1/predict", "/v1/generate")

_is_ending: Callable[[], bool] = bool


def watch(is_ending: Callable[[], bool]) -> None:
    """Called once by the server that runs this process, with how to ask it."""
    global _is_ending
    _is_ending = is_ending


def is_draining() -> bool:
    return _is_ending()
