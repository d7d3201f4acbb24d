"""The steps of a worker that holds leases, one at a time."""

from rq.defaults import RQ_KEY_PREFIX

from predictions import lifecycle
from predictions.models import Task
from predictions.redis.connections import get_redis
from predictions.worker.bookkeeping import Bookkeeping
from predictions.worker.runs import Ending, Run

WIP, TICK = f"{RQ_KEY_PREFIX}:wip:default", f"{RQ_KEY_PREFIX}:tick:default"


def claim(wanted: int = 1) -> list[Run]:
    runs, _ = Bookkeeping("lost").claim("default", wanted)
    return runs


def tick() -> None:
    """The regular work of another worker."""
    Bookkeeping("looker").tick("default")


def lapse_leases() -> None:
    """Lets every lease expire now."""
    for member in get_redis().zrange(WIP, 0, -1):
        get_redis().zadd(WIP, {member: 1})


def begin(run: Run) -> Task:
    return lifecycle.start(run.job_id, run_id=run.execution_id, lost=run.lost, handed_back=run.handed_back)


def hand_back(run: Run) -> None:
    assert not Bookkeeping("lost").end([Ending(run, "queued")])
