"""Measures, the figures that they yield, and the goals for these figures."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.servers import Contestants

AGENT = "agent"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of one contestant in one round."""

    quantity: str
    """Unit and circumstances, such as `requests/s, 32 connections`."""
    contestant: str
    round: int
    value: float
    database: str = ""
    measure: str = ""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A bound for the agent's median, or with `against` for the median of its ratios to a peer."""

    quantity: str
    at_least: float | None = None
    at_most: float | None = None
    against: str = ""
    database: str = ""
    """The goal holds for this database only; empty: for each."""

    def is_reached(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    @property
    def bound(self) -> str:
        bound = f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"
        return f"{bound} × {self.against}" if self.against else bound


@dataclass(frozen=True)
class Bench:
    """The contestants, and how long and how often to measure them."""

    contestants: Contestants
    rounds: int
    quick: bool
    say: Callable[[str], None]

    def seconds(self, usual: float) -> float:
        """How long one kind of load lasts."""
        return 1.0 if self.quick else usual

    def count(self, usual: int) -> int:
        """How many requests to send, a multiple of 16; few of them with `quick`."""
        return max(16, usual // 256 * 16) if self.quick else usual


@dataclass(frozen=True)
class Measure:
    """One of bench/measures."""

    name: str
    title: str
    run: Callable[[Bench], Iterator[Figure]]
    goals: tuple[Goal, ...] = ()
