"""`python -m bench`: starts the contestants one after another, measures them, and writes bench/RESULTS.md."""

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from bench import console, environment, report, stores
from bench.console import say
from bench.figures import Bench, Figure, Measure
from bench.measures import concurrency, crowd, drain, growth, idle, mixed, pickup, polling, read, submit, sync
from bench.servers import Contestants, platform

MEASURES = [
    module.MEASURE for module in (sync, crowd, submit, drain, mixed, concurrency, pickup, polling, read, growth, idle)
]
DATABASES = ("postgresql", "sqlite")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = ", ".join(measure.name for measure in MEASURES)
    parser.add_argument("--only", default="", metavar="NAMES", help=f"comma-separated, of: {names}")
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 3; 1 with --quick")
    parser.add_argument("--database", choices=(*DATABASES, "both"), default="both")
    parser.add_argument("--quick", action="store_true", help="one short round: shows that it works, not how fast")
    parser.add_argument("--output", type=Path, default=environment.DIRECTORY / "RESULTS.md", metavar="FILE")
    options = parser.parse_args(arguments)
    measures = _chosen(options.only, parser)
    databases = DATABASES if options.database == "both" else (options.database,)
    console.set_up()
    environment.prepare(say)
    rounds = options.rounds or (1 if options.quick else 3)
    figures: list[Figure] = []
    for database in databases:
        figures += _measured(database, measures, rounds, options.quick)
    text = report.whole(measures, figures, shlex.join(["python", "-m", "bench", *arguments]))
    print(f"\n{report.table(measures, figures)}\n\n{report.goals(measures, figures)}")
    options.output.write_text(text)
    say(f"written to {options.output}")


def _chosen(only: str, parser: argparse.ArgumentParser) -> list[Measure]:
    wanted = [name for name in only.split(",") if name]
    if unknown := set(wanted) - {measure.name for measure in MEASURES}:
        parser.error(f"there is no measure {', '.join(sorted(unknown))}")
    return [measure for measure in MEASURES if not wanted or measure.name in wanted]


def _measured(database: str, measures: list[Measure], rounds: int, quick: bool) -> list[Figure]:
    found = []
    say(f"starting Redis and {database} …")
    with stores.opened(database) as opened, platform() as instant:
        for measure in measures:
            say(f"{database}, {measure.name}: {measure.title}")
            bench = Bench(Contestants(opened, instant), rounds, quick, say)
            found += [replace(figure, database=database, measure=measure.name) for figure in measure.run(bench)]
    return found


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
