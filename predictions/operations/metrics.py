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
    registry.register(_Collector())
    return generate_latest(registry)


class _Collector:
    """The gauges cost one round trip to Redis, and one query on the index of unfinished tasks."""

    def collect(self) -> Iterator[Metric]:
        with files_to_add_up(settings.METRICS_DIR) as files:
            counted = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        # django-rq counts for its own pages
        yield from (metric for metric in counted if not metric.name.startswith(("rq_", FOLDED_FILES)))
        try:
            yield from _queue_gauges()
        except QueueUnavailable:
            logger.warning("metrics without the queue: Redis does not answer")
        try:
            yield from _task_gauges()
        except RecordUnavailable:
            logger.warning("metrics without the tasks: the database does not answer")
        versions = {"version": settings.VERSION, "python_version": python_version()}
        yield InfoMetricFamily("build", "The agent's version.", versions)


def _queue_gauges() -> Iterator[Metric]:
    queue = overview()
    yield GaugeMetricFamily("task_queue_size", "Tasks that wait: queued, scheduled, retrying.", queue.waiting)
    yield GaugeMetricFamily(
        "task_queue_size_ratio", "task_queue_size by MAX_QUEUE_SIZE.", queue.waiting / settings.MAX_QUEUE_SIZE
    )
    yield GaugeMetricFamily("task_queue_paused", "1 while the queue hands out nothing.", bool(queue.paused_by))
    yield GaugeMetricFamily("workers", "Worker processes that are alive.", queue.workers_alive)
    yield GaugeMetricFamily("worker_slots", "Predictions that the workers can run at once.", queue.slots)
    yield GaugeMetricFamily("worker_slots_busy", "Tasks that workers run.", queue.running)


def _task_gauges() -> Iterator[Metric]:
    tasks = statistics.unfinished()
    yield GaugeMetricFamily(
        "task_queue_oldest_seconds", "How long the oldest waiting task has waited.", tasks.oldest_waiting_seconds
    )
    yield GaugeMetricFamily("tasks_running", "Tasks that run, sync and streaming ones included.", tasks.running)
