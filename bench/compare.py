"""Measures two checkouts of the agent, A and B, in alternation.

    python -m bench.compare OTHER                    A: this checkout, B: the one in the directory OTHER
    python -m bench.compare --variant NAME=VALUE     A: this checkout, B: the same with this environment variable

Each round starts the agents of both and takes each measure of one and then of the other, seconds apart; the other
agent is idle meanwhile. The next round swaps the order. Both use the same platform and database server; each has its
own database and Redis. The table has the medians of all rounds, their ratio, and the median, lowest and highest of the
ratios within each round. CPU time is that of web, worker, Redis and database together.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench import console, environment, stores
from bench.agent_run import STEPS, started
from bench.console import say
from bench.environment import ROOT, Checkout
from bench.processes import cpu_seconds, machine_cpu_seconds
from bench.report import markdown, number
from bench.servers import Contestants, platform
from bench.stores import Stores

DATABASES = ("postgresql", "sqlite")
NAMES = tuple(dict.fromkeys(name for _, names in STEPS for name in names))
NOISE = "% of the machine's CPU used by others"
Round = Mapping[str, Mapping[str, float]]
"""side → quantity → value"""


@dataclass(frozen=True)
class Pair:
    """One quantity of both checkouts; the values of each round stand at the same place."""

    database: str
    quantity: str
    a: Sequence[float]
    b: Sequence[float]

    @property
    def ratio(self) -> float | None:
        """Median of B divided by median of A; None if that is 0."""
        return median(self.b) / median(self.a) if median(self.a) else None

    @property
    def ratios(self) -> list[float]:
        """B divided by A in each round."""
        return [b / a for a, b in zip(self.a, self.b, strict=True) if a]


class Noise:
    """The share of this machine's CPU time that went to unrelated processes inside its `with` blocks."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._others = self._all = 0.0

    @property
    def percent(self) -> float:
        return 100 * self._others / self._all

    def __enter__(self) -> None:
        self._before = self._now()

    def __exit__(self, *exception: object) -> None:
        others, everything = (now - before for now, before in zip(self._now(), self._before, strict=True))
        self._others += others
        self._all += everything

    def _now(self) -> tuple[float, float]:
        busy, everything = machine_cpu_seconds()
        return busy - cpu_seconds(os.getpid()) - self._stores.server_cpu_seconds(), everything


def main(arguments: list[str]) -> None:
    options = _parsed(arguments)
    sides = {"A": Checkout(), "B": Checkout(options.other, options.variant)}
    console.set_up()
    environment.prepare(say)
    pairs: list[Pair] = []
    try:
        for database in DATABASES if options.database == "both" else (options.database,):
            rounds: list[Round] = []
            try:
                _measure(database, sides, options, rounds)
            finally:
                pairs += paired(database, rounds)
    finally:
        if pairs:
            print(f"\n{heading(sides)}\n\n{table(pairs)}")
        if pairs and options.json:
            options.json.write_text(json.dumps(document(sides, pairs), indent=1) + "\n")


def _parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", nargs="?", type=Path, default=ROOT, metavar="OTHER", help="the directory of B")
    parser.add_argument("--variant", action="append", default=[], metavar="NAME=VALUE", help="for B; may be repeated")
    parser.add_argument(
        "--only", default=",".join(NAMES), metavar="NAMES", help=f"comma-separated, of {','.join(NAMES)}"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--database", choices=(*DATABASES, "both"), default="postgresql")
    parser.add_argument("--quick", action="store_true", help="3 s for each kind of load instead of 8")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the values of all rounds to this file")
    options = parser.parse_args(arguments)
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(NAMES):
        parser.error(f"there is no measure {', '.join(sorted(unknown))}")
    if wrong := [pair for pair in options.variant if "=" not in pair]:
        parser.error(f"--variant needs NAME=VALUE, not {wrong[0]}")
    options.variant = dict(pair.split("=", 1) for pair in options.variant)
    options.other = options.other.resolve()
    if not (options.other / "Procfile").is_file():
        parser.error(f"{options.other} is not a checkout of the agent: it has no Procfile")
    if options.other == ROOT and not options.variant:
        parser.error("name the directory of another checkout, or a --variant of this one")
    return options


def _measure(database: str, sides: Mapping[str, Checkout], options: argparse.Namespace, rounds: list[Round]) -> None:
    """Appends to `rounds` after each round, so that an error in a later one loses nothing."""
    say(f"starting Redis and {database} …")
    with stores.opened_apart(database, sides) as opened, platform() as instant:
        contestants = {side: Contestants(opened[side], instant, checkout) for side, checkout in sides.items()}
        for index in range(options.rounds):
            say(f"{database}, round {index + 1} of {options.rounds}")
            rounds.append(_round(contestants, order(index), options.only, options.quick))


def _round(contestants: Mapping[str, Contestants], sides: Sequence[str], only: Sequence[str], quick: bool) -> Round:
    found: dict[str, dict[str, float]] = {side: {} for side in sides}
    noise = {side: Noise(contestants[side].stores) for side in sides}
    with ExitStack() as stack:
        runs = {side: stack.enter_context(started(contestants[side], quick=quick)) for side in sides}
        for step, names in STEPS:
            if set(names) & set(only):
                for side in sides:
                    with noise[side]:
                        found[side] |= step(runs[side])
    for side in sides:
        found[side][NOISE] = noise[side].percent
    for quantity in found["A"]:
        say(f"    {quantity}: A {number(found['A'][quantity])}, B {number(found['B'][quantity])}")
    return found


def order(index: int) -> tuple[str, str]:
    """The sides in the order in which a round measures them."""
    return ("A", "B") if index % 2 == 0 else ("B", "A")


def paired(database: str, rounds: Sequence[Round]) -> list[Pair]:
    """The rounds' values by quantity."""
    if not rounds:
        return []
    values = {
        side: {quantity: [found[side][quantity] for found in rounds] for quantity in rounds[0]["A"]} for side in "AB"
    }
    return [Pair(database, quantity, a, values["B"][quantity]) for quantity, a in values["A"].items()]


def heading(sides: Mapping[str, Checkout]) -> str:
    """Which code and which environment variables A and B are."""
    return "\n".join(f"{side}: {_described(checkout)}" for side, checkout in sides.items())


def table(pairs: Sequence[Pair]) -> str:
    rows: list[tuple[str, ...]] = [
        ("Measured", "Database", "A", "min – max", "B", "min – max", "B ÷ A", "B ÷ A within each round")
    ]
    for pair in pairs:
        ratio = "" if pair.ratio is None else f"{pair.ratio:.2f}"
        low, middle, high = (f"{pick(pair.ratios or [0]):.2f}" for pick in (min, median, max))
        within = f"{middle} ({low} – {high})" if pair.ratios else ""
        rows.append((pair.quantity, pair.database, *_summary(pair.a), *_summary(pair.b), ratio, within))
    return markdown(rows)


def document(sides: Mapping[str, Checkout], pairs: Sequence[Pair]) -> dict[str, Any]:
    """The same as JSON, with the values of all rounds."""
    measured_pairs = [
        {
            "database": pair.database,
            "quantity": pair.quantity,
            "A": list(pair.a),
            "B": list(pair.b),
            "median_A": median(pair.a),
            "median_B": median(pair.b),
            "ratio": pair.ratio,
        }
        for pair in pairs
    ]
    return {**{side: _described(checkout) for side, checkout in sides.items()}, "measured": measured_pairs}


def _summary(values: Sequence[float]) -> tuple[str, str]:
    return number(median(values)), f"{number(min(values))} – {number(max(values))}"


def _described(checkout: Checkout) -> str:
    command = ["git", "-C", str(checkout.directory), "describe", "--always", "--dirty", "--exclude", "*"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    variables = " ".join(f"{name}={value}" for name, value in checkout.variables.items())
    return " ".join(filter(None, (str(checkout.directory), commit, variables, f"({checkout.programs}/python)")))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
