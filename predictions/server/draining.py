"""Whether this web process is ending: then it takes no new predictions and finishes those in flight."""

from collections.abc import Callable

NEW_PREDICTIONS = ("/v1/predict", "/async/v1/predict", "/v1/generate")

_is_leaving: Callable[[], bool] = bool
_is_refusing: Callable[[], bool] = bool


def watch(*, is_leaving: Callable[[], bool], is_refusing: Callable[[], bool]) -> None:
    """Called once by the server that runs this process, with how to ask it."""
    global _is_leaving, _is_refusing
    _is_leaving, _is_refusing = is_leaving, is_refusing


def is_leaving() -> bool:
    """SIGTERM has come: callers should go elsewhere, but are still served."""
    return _is_leaving()


def is_refusing() -> bool:
    """New predictions are refused."""
    return _is_refusing()
