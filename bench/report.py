"""The report: a table of medians and ratios, the goals, and the machine."""

import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

from bench import environment
from bench.figures import AGENT, Figure, Goal, Measure

NOTES = """\
Each round measures every contestant in turn, so a ratio compares figures of the same minute; the table has the medians
of the rounds and of their ratios. Client, platform, servers, Redis and database share the machine's cores: the ratios
say more than the figures. The load comes from `bench/load.py` and goes to `bench/platform.py`, both raw asyncio on
uvloop with a process to themselves, some 30 µs of CPU a request each. Two web processes everywhere; Celery and dramatiq
have one process with as many threads as the agent's worker has slots, RQ a pool of eight processes. The peers write to
the same table in their own database: an INSERT and an UPDATE for a sync prediction, `pending`, `running` and
`succeeded` for a queued one. `floor` does the work of a sync prediction on uvicorn, aiohttp and psycopg's pool, without
a framework and without checks. All contestants log only warnings. Memory is the proportional set size (PSS) of all
processes of a kind. Without requests, web, worker and scheduler have their default sizes."""


def table(measures: Iterable[Measure], figures: Sequence[Figure]) -> str:
    """The medians of all contestants, and the agent's ratio to each peer."""
    rows: list[tuple[str, ...]] = [("Measured", "Database", "Contestant", "Median", "Range", "Agent ÷ this")]
    for measure in measures:
        own = [figure for figure in figures if figure.measure == measure.name]
        if own:
            rows.append((f"**{measure.title}**", "", "", "", "", ""))
        for quantity, database, contestant in dict.fromkeys((f.quantity, f.database, f.contestant) for f in own):
            values = _by_round(own, quantity, database, contestant)
            ratio = _ratio(own, quantity, database, contestant)
            rows.append(
                (
                    quantity,
                    database,
                    contestant,
                    number(median(values.values())),
                    f"{number(min(values.values()))} – {number(max(values.values()))}",
                    "" if ratio is None else f"**{ratio:.2f}**",
                )
            )
    return markdown(rows)


def goals(measures: Iterable[Measure], figures: Sequence[Figure]) -> str:
    """Which goals are reached, as far as their figures were measured."""
    rows: list[tuple[str, ...]] = [("Goal", "Database", "Bound", "Measured", "Reached")]
    for measure in measures:
        own = [figure for figure in figures if figure.measure == measure.name]
        for goal in measure.goals:
            for database in dict.fromkeys(figure.database for figure in own):
                value = _of_goal(own, goal, database)
                if value is not None and goal.database in ("", database):
                    reached = "yes" if goal.is_reached(value) else "**no**"
                    rows.append((f"{measure.name}: {goal.quantity}", database, goal.bound, number(value), reached))
    return markdown(rows)


def whole(measures: Sequence[Measure], figures: Sequence[Figure], command: str) -> str:
    """RESULTS.md."""
    rounds = max(figure.round for figure in figures) + 1
    return "\n\n".join(
        (
            "# Measured",
            f"By `{command}`, {rounds} round{'s' if rounds > 1 else ''}.",
            f"{machine()}\n\n{libraries()}",
            NOTES,
            "## Goals",
            goals(measures, figures),
            "## Figures",
            table(measures, figures) + "\n",
        )
    )


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({model.strip()}), {gigabytes:.0f} GiB, {platform.system()} {platform.release()}; "
        f"Python {platform.python_version()}, {_first_line('redis-server', '--version')}, "
        f"{_first_line('psql', '--version') or 'PostgreSQL'}."
    )


def libraries() -> str:
    ours = {name: version(name) for name in ("Django", "djangorestframework", "gunicorn", "gevent", "psycopg", "redis")}
    theirs = environment.versions(
        "fastapi", "uvicorn", "httpx", "SQLAlchemy", "asyncpg", "aiohttp", "celery", "dramatiq", "rq"
    )
    agent, peers = (", ".join(f"{name} {number}" for name, number in found.items()) for found in (ours, theirs))
    return f"Agent: {agent}. Peers: {peers}."


def _by_round(figures: Iterable[Figure], quantity: str, database: str, contestant: str) -> dict[int, float]:
    wanted = (quantity, database, contestant)
    return {f.round: f.value for f in figures if (f.quantity, f.database, f.contestant) == wanted}


def _ratio(figures: Sequence[Figure], quantity: str, database: str, contestant: str) -> float | None:
    """The median of the rounds' ratios; None if there is nothing to compare."""
    if contestant == AGENT:
        return None
    own, theirs = (_by_round(figures, quantity, database, name) for name in (AGENT, contestant))
    ratios = [own[number] / value for number, value in theirs.items() if number in own and value]
    return median(ratios) if ratios else None


def _of_goal(figures: Sequence[Figure], goal: Goal, database: str) -> float | None:
    if goal.against:
        return _ratio(figures, goal.quantity, database, goal.against)
    values = _by_round(figures, goal.quantity, database, AGENT)
    return median(values.values()) if values else None


def number(value: float) -> str:
    """Three digits, or all those before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(rows: list[tuple[str, ...]]) -> str:
    """A table; the first row is its head."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _first_line(*command: str) -> str:
    try:
        lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return lines[0].split(" sha=")[0] if lines else ""
