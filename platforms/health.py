"""Health: the result of a check, for operators."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """It works, and an operator should know of it."""
    PROBLEM = "problem"
    """Something that this agent is there for does not work."""


@dataclass(frozen=True, slots=True)
class Health:
    """One finding. `hint` is what to do about it; empty where all is well."""

    level: Level
    message: str
    hint: str = ""


def ok(message: str) -> Health:
    return Health(Level.OK, message)


def warning(message: str, hint: str) -> Health:
    return Health(Level.WARNING, message, hint)


def problem(message: str, hint: str) -> Health:
    return Health(Level.PROBLEM, message, hint)
