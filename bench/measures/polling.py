"""Polled platforms in RunPod's form: the time from the job's end to the task's `succeeded`, and the number of polls."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from bench.figures import AGENT, Bench, Figure, Goal, Measure
from bench.processes import Process, wait_for
from bench.servers import run_load, submissions

JOBS = {0.2: 60, 2.0: 60, 30.0: 60}
"""Seconds of a job → how many of them."""
SLOTS = 64
NOTICED = "ms from done to succeeded, jobs of {seconds:g} s, {quantile}"
POLLS = "polls a second, jobs of {seconds:g} s"


def run(bench: Bench) -> Iterator[Figure]:
    platform = bench.contestants.platform
    runpod = {
        "ML_PLATFORM": "runpod",
        "RUNPOD_ADDRESS": f"http://{platform.address}/v2",
        "RUNPOD_APIKEY": "none",
        "RUNPOD_MODEL_ID": "model",
    }
    for number in range(bench.rounds):
        for seconds, count in JOBS.items():
            if bench.quick and seconds > 2:
                continue
            bench.contestants.stores.clear()
            platform.forget()
            with bench.contestants.web(AGENT, **runpod) as web, bench.contestants.worker(AGENT, SLOTS, **runpod) as own:
                run_load(submissions(web.port, 0.1, each=4))
                _wait_until_all_ended(bench, own)
                bench.contestants.stores.agent.clear()
                platform.forget()
                # The pause keeps their polls out of step.
                run_load(submissions(web.port, seconds, each=bench.count(count), pause=0.037))
                _wait_until_all_ended(bench, own)
            for quantity, value in _noticed(bench, seconds):
                yield Figure(quantity=quantity, contestant=AGENT, round=number, value=value)


def _noticed(bench: Bench, seconds: float) -> Iterator[tuple[str, float]]:
    rows = bench.contestants.stores.agent.execute("SELECT upstream_id, ended_at FROM predictions_task")
    ended = {upstream: _timestamp(moment) for upstream, moment in rows}
    jobs = bench.contestants.platform.jobs()
    late = sorted((ended[f"job-{n}"] - job["done_at"]) * 1000 for n, job in enumerate(jobs))
    for quantile, share in (("p50", 0.5), ("p99", 0.99)):
        value = late[min(len(late) - 1, int(len(late) * share))]
        yield NOTICED.format(seconds=seconds, quantile=quantile), value
    yield POLLS.format(seconds=seconds), sum(job["polls"] for job in jobs) / sum(job["seconds"] for job in jobs)


def _timestamp(moment: Any) -> float:
    known = datetime.fromisoformat(f"{moment}+00:00") if isinstance(moment, str) else moment
    return float(known.timestamp())


def _wait_until_all_ended(bench: Bench, process: Process) -> None:
    wait_for(lambda: not bench.contestants.stores.agent.has_unfinished(), 120, "the end of all tasks", process)


MEASURE = Measure(
    "polling",
    "Platforms that are polled",
    run,
    goals=(
        Goal(quantity=NOTICED.format(seconds=0.2, quantile="p50"), at_most=150),
        Goal(quantity=NOTICED.format(seconds=2, quantile="p50"), at_most=150),
        Goal(quantity=NOTICED.format(seconds=30, quantile="p50"), at_most=1000),
        Goal(quantity=POLLS.format(seconds=30), at_most=1),
    ),
)
