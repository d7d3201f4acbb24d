"""The text of /metrics: this host's counters, the state of queue, tasks and workers, and the version.

Each process keeps its counters in files, and prometheus_client adds them up (PROMETHEUS_MULTIPROC_DIR). Each scrape
reads the gauges from Redis and the database, so they are the same on every host.
"""

import logging
from collections.abc import Iterator
from platform import python_version

from django.conf import settings
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from predictions.operations import statistics
from predictions.queue.overview import overview
from predictions.recorder import RecordUnavailable
from predictions.redis.errors import QueueUnavailable
from predictions.telemetry.counter_files import FOLDED_FILES, files_to_add_up

logger = logging.getLogger(__name__)

CONTENT_TYPE = CONTENT_TYPE_LATEST


def exposition() -> bytes:
    """The metrics in Prometheus' text format. What Redis or the database does not tell now is left out."""
    registry = CollectorRegistry()
    registry.register(_Counted())
    registry.register(_Standing())
    registry.register(_Build())
    return generate_latest(registry)


class _Counted:
    """The counters of all processes, without those that django-rq keeps for its own pages."""

    def collect(self) -> Iterator[Metric]:
        with files_to_add_up(settings.METRICS_DIR) as files:
            counted = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        return (metric for metric in counted if not metric.name.startswith(("rq_", FOLDED_FILES)))


class _Standing:
    """The gauges: one round trip to Redis, one query on the index of unfinished tasks."""

    def collect(self) -> Iterator[Metric]:
        try:
            yield from _of_the_queue()
        except QueueUnavailable:
            logger.warning("metrics without the queue: Redis does not answer")
        try:
            yield from _of_the_tasks()
        except RecordUnavailable:
            logger.warning("metrics without the tasks: the database does not answer")


class _Build:
    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily(
            "build", "The agent's version.", {"version": settings.VERSION, "python_version": python_version()}
        )


def _of_the_queue() -> Iterator[Metric]:
    queue = overview()
    yield GaugeMetricFamily("task_queue_size", "Tasks that wait: queued, scheduled, retrying.", queue.waiting)
    yield GaugeMetricFamily(
        "task_queue_size_ratio", "task_queue_size by MAX_QUEUE_SIZE.", queue.waiting / settings.MAX_QUEUE_SIZE
    )
    yield GaugeMetricFamily("task_queue_paused", "1 while the queue hands out nothing.", bool(queue.paused_by))
    yield GaugeMetricFamily("workers", "Worker processes that are alive.", queue.workers_alive)
    yield GaugeMetricFamily("worker_slots", "Predictions that the workers can run at once.", queue.slots)
    yield GaugeMetricFamily("worker_slots_busy", "Tasks that workers run.", queue.running)


def _of_the_tasks() -> Iterator[Metric]:
    tasks = statistics.unfinished()
    yield GaugeMetricFamily(
        "task_queue_oldest_seconds", "How long the oldest waiting task has waited.", tasks.oldest_waiting_seconds
    )
    yield GaugeMetricFamily("tasks_running", "Tasks that run, sync and streaming ones included.", tasks.running)
