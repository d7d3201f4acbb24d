"""Tasks of a second each on 64 and on 256 slots: ten seconds would be ideal."""

from collections.abc import Iterator

from bench.figures import AGENT, Bench, Figure, Goal, Measure
from bench.queues import drain, warm_worker

SLOTS = (64, 256)
TURNS = 10
TIME = "s for {count} tasks of 1 s on {slots} slots, ideal is {turns}"
MEMORY = "MB of one worker (PSS), {slots} slots"


def run(bench: Bench) -> Iterator[Figure]:
    turns = 2 if bench.quick else TURNS
    for number in range(bench.rounds):
        for slots in SLOTS:
            for name in (AGENT, "celery", "dramatiq"):
                count = slots * turns
                with warm_worker(bench, name, slots) as process:
                    drained = drain(bench, name, process, count, sleep=1)
                time = TIME.format(count=count, slots=slots, turns=turns)
                yield Figure(quantity=time, contestant=name, round=number, value=drained.seconds)
                memory = MEMORY.format(slots=slots)
                yield Figure(quantity=memory, contestant=name, round=number, value=drained.memory_mb)


MEASURE = Measure(
    "concurrency",
    "Tasks that wait, on many slots",
    run,
    goals=tuple(
        goal
        for slots in SLOTS
        for goal in (
            Goal(quantity=TIME.format(count=slots * TURNS, slots=slots, turns=TURNS), at_most=TURNS * 1.05),
            Goal(quantity=MEMORY.format(slots=slots), at_most=120),
        )
    ),
)
