"""What a measure yields, and what it is held to."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.servers import Contestants

AGENT = "agent"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of one contestant in one round."""

    quantity: str
    """What was measured, with its unit, such as `requests/s, 32 connections`."""
    contestant: str
    round: int
    value: float
    database: str = ""
    measure: str = ""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What the agent's median, or with `against` its ratio to a peer's, is to be."""

    quantity: str
    at_least: float | None = None
    at_most: float | None = None
    against: str = ""
    database: str = ""
    """The one it holds for; empty: each."""

    def is_reached(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    @property
    def bound(self) -> str:
        bound = f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"
        return f"{bound} × {self.against}" if self.against else bound


@dataclass(frozen=True)
class Bench:
    """What a measure works with."""

    contestants: Contestants
    rounds: int
    quick: bool
    say: Callable[[str], None]

    def seconds(self, usual: float) -> float:
        """How long to measure one thing."""
        return 1.0 if self.quick else usual

    def count(self, usual: int) -> int:
        """How many to send, a multiple of 16; few where it is only to be shown that it works."""
        return max(16, usual // 256 * 16) if self.quick else usual


@dataclass(frozen=True)
class Measure:
    """One of bench/measures."""

    name: str
    title: str
    run: Callable[[Bench], Iterator[Figure]]
    goals: tuple[Goal, ...] = ()
