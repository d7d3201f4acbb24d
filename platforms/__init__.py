"""What can run a prediction. Knows nothing of tasks, Django models, queues or HTTP callers."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from platforms.base import (
    NO_ANSWER,
    Call,
    CallStopped,
    Chunk,
    InvalidInputs,
    Platform,
    PlatformError,
    PlatformTimeout,
    PlatformUnavailable,
    Prediction,
    PredictionResult,
    StopReason,
    Unsupported,
)
from platforms.health import Health, Level

__all__ = [
    "NO_ANSWER",
    "Call",
    "CallStopped",
    "Chunk",
    "Health",
    "InvalidInputs",
    "Level",
    "Platform",
    "PlatformError",
    "PlatformTimeout",
    "PlatformUnavailable",
    "Prediction",
    "PredictionResult",
    "StopReason",
    "Unsupported",
    "get_platform",
]

_platforms: dict[str, Platform] = {}


def get_platform(name: str, known: Mapping[str, tuple[str, dict[str, Any]]]) -> Platform:
    """The process's one instance of a platform (it holds the connection pool).

    `known` is the PLATFORMS setting: name → (class path, constructor arguments). Raises KeyError for other names.
    """
    if name not in _platforms:
        path, arguments = known[name]
        module, _, class_name = path.rpartition(".")
        _platforms[name] = getattr(import_module(module), class_name)(**arguments)
    return _platforms[name]


def forget_platforms() -> None:
    """Drops the instances, so that changed settings take effect."""
    _platforms.clear()
