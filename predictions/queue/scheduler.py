"""RQ's cron scheduler for this agent's maintenance: JSON jobs, and one of each however many schedulers run."""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from types import FrameType
from typing import Any

import redis
from django.conf import settings
from django_rq.cron import DjangoCronScheduler
from rq import cron_scheduler_registry
from rq.cron import CronJob
from rq.defaults import DEFAULT_CRON_SCHEDULER_TTL
from rq.exceptions import DuplicateJobError, SchedulerNotFound, StopRequested
from rq.job import Job
from rq.queue import Queue

from predictions.redis.connections import get_redis
from predictions.redis.errors import redis_errors

logger = logging.getLogger(__name__)


def is_alive() -> bool:
    """Whether a scheduler of this agent has beaten lately. Raises QueueUnavailable."""
    with redis_errors():
        beat_at = get_redis().zscore(cron_scheduler_registry.get_registry_key(), _name())
    return beat_at is not None and time.time() - float(beat_at) < DEFAULT_CRON_SCHEDULER_TTL


def _name() -> str:
    """All schedulers of an agent go by one name: who beats last is the one that is seen."""
    return f"{settings.TASK_TYPE_NAME}-scheduler"


def enqueue_once(function: Callable[[], Any] | str, *, turn_seconds: int, **options: Any) -> Job | None:
    """Queues a maintenance function, or the one of that name, unless its turn has been queued already.

    The job is named after its turn, so that Redis refuses a second process' copy.
    """
    name = function.rpartition(".")[2] if isinstance(function, str) else function.__name__
    queue = Queue(settings.MAINTENANCE_QUEUE, connection=get_redis(), serializer="rq.serializers.JSONSerializer")
    job_id = f"{queue.name}-{name}-{int(time.time() // turn_seconds)}".replace(".", "-")
    try:
        return queue.enqueue(function, job_id=job_id, unique=True, job_timeout=settings.TASK_TIMEOUT, **options)
    except DuplicateJobError:
        logger.info("%s has been queued already", job_id)
        return None


class _MaintenanceJob(CronJob):
    """Due by the monotonic clock, because the wall clock may be set."""

    due_at = float("-inf")

    def enqueue(self, connection: Any) -> Any:
        assert self.func is not None
        assert self.interval is not None
        return enqueue_once(self.func, turn_seconds=self.interval, **self.job_options)

    def should_run(self) -> bool:
        return time.monotonic() >= self.due_at

    def set_enqueue_time(self, moment: datetime) -> None:
        super().set_enqueue_time(moment)
        assert self.interval is not None
        self.due_at = time.monotonic() + self.interval


class Scheduler(DjangoCronScheduler):
    """Queues each function for a worker once in its interval, for as long as the process runs."""

    def __init__(self) -> None:
        super().__init__(connection=get_redis(), name=_name())
        self._stopping = False

    def every(self, seconds: int, function: Callable[[], Any]) -> None:
        """Registers `function` to be queued every `seconds`, the first time at once."""
        self._cron_jobs.append(
            _MaintenanceJob(
                settings.MAINTENANCE_QUEUE,
                func=function,
                interval=seconds,
                result_ttl=max(600, seconds),
                failure_ttl=12 * 3600,
            )
        )

    def run(self) -> None:
        """RQ's own loop; it ends on SIGTERM and SIGINT, and begins again when Redis comes back."""
        with suppress(StopRequested):
            while not self._stopping:
                try:
                    self.start()
                except SchedulerNotFound:
                    logger.info("another scheduler of this agent has signed off already")
                except redis.RedisError as error:
                    logger.error("the scheduler got no answer from Redis (%s)", error)
                    time.sleep(0 if self._stopping else 2)

    def calculate_sleep_interval(self) -> float:
        """Seconds until the next function is due, at most a minute."""
        due_at = min((job.due_at for job in self._cron_jobs), default=float("inf"))
        return max(0.0, min(60.0, due_at - time.monotonic()))

    def _request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Once is enough: RQ signs off on its way out, and a Redis that is away must not keep it here."""
        if not self._stopping:
            self._stopping = True
            raise StopRequested
