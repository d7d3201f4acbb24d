"""Health: what a look at something found, in words for operators."""

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
    """One finding. `mend` is what to do about it; empty where all is well."""

    level: Level
    says: str
    mend: str = ""


def ok(says: str) -> Health:
    return Health(Level.OK, says)


def warning(says: str, mend: str) -> Health:
    return Health(Level.WARNING, says, mend)


def problem(says: str, mend: str) -> Health:
    return Health(Level.PROBLEM, says, mend)
