"""From the answer of a submission to the first byte at the platform, on an idle system."""

from collections.abc import Iterator

from bench.figures import AGENT, Bench, Figure, Goal, Measure
from bench.processes import wait_for
from bench.queues import warm_worker
from bench.servers import run_load, submissions

PEER = "fastapi + celery"
QUANTITY = "ms from submit's answer to the platform, {}"
FROM_SUBMIT = "ms from submit's request to the platform, {}"


def run(bench: Bench) -> Iterator[Figure]:
    for number in range(bench.rounds):
        for name in (AGENT, PEER):
            with warm_worker(bench, AGENT if name == AGENT else "celery", 8):
                yield from of(bench, name, number)


def of(bench: Bench, name: str, number: int) -> Iterator[Figure]:
    """The figures of one contestant whose worker runs."""
    with bench.contestants.web(AGENT if name == AGENT else "fastapi") as web:
        run_load(submissions(web.port, connections=4, each=10))
        _wait(bench, 40)
        bench.contestants.platform.forget()
        load = submissions(web.port, each=bench.count(200), pause=0.05, keep_answers=True)
        told = run_load(load)
        _wait(bench, told["answered"])
    seen = bench.contestants.platform.seen()
    after_answer = sorted((seen[n] - answered) * 1000 for n, _, answered in told["answers"])
    after_request = sorted((seen[n] - sent) * 1000 for n, sent, _ in told["answers"])
    for quantile, share in (("p50", 0.5), ("p99", 0.99)):
        for quantity, values in ((QUANTITY, after_answer), (FROM_SUBMIT, after_request)):
            value = values[min(len(values) - 1, int(len(values) * share))]
            yield Figure(quantity=quantity.format(quantile), contestant=name, round=number, value=value)


def _wait(bench: Bench, count: int) -> None:
    wait_for(lambda: len(bench.contestants.platform.seen()) >= count, 60, f"the platform's {count} requests")


MEASURE = Measure(
    "pickup",
    "Pick-up on an idle system",
    run,
    goals=(Goal(quantity=QUANTITY.format("p50"), at_most=5),),
)
