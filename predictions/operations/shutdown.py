"""Closes a queue whose Redis ends with its pod (USE_LOCAL_REDIS): waiting tasks fail, and new ones are refused.

Every web process and worker of the pod does this on SIGTERM. Any number of them may do it at the same time: each change
is one conditional UPDATE.
"""

import logging
import threading
import time
from contextlib import suppress
from functools import cache

from django.conf import settings
from django.db import connection

from predictions import lifecycle
from predictions.execution import outcomes
from predictions.execution.outcomes import Outcome
from predictions.lifecycle import InvalidTransition
from predictions.models import Task
from predictions.operations.maintenance import report_unreported
from predictions.queue import queue
from predictions.recorder import RecordUnavailable
from predictions.redis.errors import QueueUnavailable
from predictions.telemetry.counters import tasks_set_to_failed

logger = logging.getLogger(__name__)

CLOSED = "the task queue was closed"
STAYS_CLOSED_SECONDS = 10
"""A process that is ending renews this, so a queue that outlives its agent opens again for the next one."""
AGAIN_SECONDS = 2.0
PATIENCE_SECONDS = 20.0


def close_for_good() -> None:
    """Closes the queue, and keeps it so until this process ends.

    Returns when all waiting tasks have ended. Without Redis or the database it returns after PATIENCE_SECONDS, and the
    next init check settles the rest.
    """
    _start_keeper()
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            failed = close_queue()
        except (QueueUnavailable, RecordUnavailable) as error:
            if time.monotonic() > give_up_at:
                logger.error("the queue could not be closed: %s", error)
                return
            time.sleep(0.5)
        else:
            logger.warning("the queue is closed; %d waiting tasks were failed", failed)
            report_unreported()
            return


@cache
def _start_keeper() -> None:  # a worker closes the queue before and after its last tasks
    threading.Thread(target=_keep_closed, name="queue-closer", daemon=True).start()


def _keep_closed() -> None:
    while True:
        time.sleep(AGAIN_SECONDS)
        try:
            close_queue()
        except (QueueUnavailable, RecordUnavailable) as error:
            logger.debug("the queue could not be kept closed: %s", error)
        finally:
            connection.close()


def close_queue() -> int:
    """Refuses new tasks from now on, and ends those that wait; how many it failed.

    Where a prediction was made and only its record is missing, that is written. Raises QueueUnavailable and
    RecordUnavailable.
    """
    queue.close(STAYS_CLOSED_SECONDS)
    failed, settled = 0, []
    waiting = sorted(queue.waiting_outcomes().items(), key=lambda item: item[1] is not None)  # what needs least first
    try:
        for task_id, kept in waiting:
            if kept is None or not outcomes.write_kept(task_id, Outcome.read(kept)):
                with suppress(InvalidTransition):  # it has ended, or never began to exist
                    # the record service may be slow, so it hears of the task later
                    lifecycle.fail(Task(pk=task_id, agent=settings.TASK_TYPE_NAME), CLOSED, tell=False)
                    failed += 1
            settled.append(task_id)
    finally:
        tasks_set_to_failed(failed)
        queue.remove(settled)
    return failed
