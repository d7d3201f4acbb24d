"""Every function that a worker calls. Jobs in Redis name these functions by their path, so this module does not move.

`predictions.worker.runs` lists the names that a worker accepts.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from platforms import CallStopped
from predictions.execution import runner
from predictions.operations import maintenance, rollups
from predictions.recorder import RecordUnavailable
from predictions.redis.errors import QueueUnavailable
from predictions.telemetry.log_context import working_on
from predictions.uploads import StorageUnavailable
from predictions.worker.runs import Requeue, RetryLater, current_run

logger = logging.getLogger(__name__)


def run_prediction(task_id: str) -> None:
    """Runs the task's prediction, or writes the outcome that an earlier run of this job kept."""
    with working_on(task_id=task_id):
        try:
            runner.run(task_id, current_run())
        except RecordUnavailable as error:
            raise RetryLater from error
        except CallStopped as stopped:
            raise Requeue from stopped


def give_up(task_id: str, why: str) -> None:
    """For a job that cannot be run, or that did not end when told to."""
    try:
        runner.give_up(task_id, why)
    except RecordUnavailable as error:
        raise RetryLater from error


def put_back(runs: list[tuple[str, str]], lost: bool) -> None:
    """For runs (task id, run id) whose jobs wait in the queue again: handed back, or lost with their worker."""
    runner.put_back(runs, lost=lost)


def init_check() -> None:
    with _outages_logged("the init check"):
        maintenance.init_check()


def sweep_archive() -> None:
    with _outages_logged("the archive sweep"):
        maintenance.sweep_archive()


def purge_tasks() -> None:
    with _outages_logged("the purge"):
        maintenance.purge_tasks()


def count_ended() -> None:
    """Counts the ended tasks for the dashboard."""
    with _outages_logged("the count of ended tasks"):
        rollups.count_ended()


@contextmanager
def _outages_logged(what: str) -> Iterator[None]:
    """Logs an outage instead of failing the job: the scheduler queues the next one when its interval is over."""
    try:
        yield
    except (QueueUnavailable, RecordUnavailable, StorageUnavailable) as error:
        logger.warning("%s was not done, and is due again: %s", what, error)
