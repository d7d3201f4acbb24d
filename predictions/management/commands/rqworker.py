"""`manage.py rqworker`: django-rq's command with this agent's queues, worker class and serializer as its defaults."""

import time
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django_rq.management.commands.rqworker import Command as RQWorker

from predictions.api import worker_port
from predictions.database.postgresql import bound_waits
from predictions.operations import shutdown
from predictions.queue import queue
from predictions.redis.errors import QueueUnavailable
from predictions.server.process import pin_to_one_core, spare_collector
from predictions.telemetry.counters import begin_at_zero
from predictions.worker.worker import ThreadWorker


class Command(RQWorker):
    help = (
        "Runs a worker: WORKER_CONCURRENCY predictions at once, as threads of one process. SIGTERM: finish what runs "
        "and end. SIGTSTP / SIGCONT: stop and go on taking tasks. Without arguments it works on this agent's queues."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.set_defaults(serializer="rq.serializers.JSONSerializer", verbosity=0)

    def handle(self, *args: Any, **options: Any) -> None:
        if settings.WORKER_CPU_AFFINITY and settings.ML_PLATFORM != "local":  # local models may use many cores
            pin_to_one_core()
        begin_at_zero(platform=settings.ML_PLATFORM, models=filter(None, [settings.MODEL_NAME]))
        if address := settings.WORKER_METRICS_ADDRESS:
            try:
                worker_port.serve(address)
            except OSError as error:
                raise CommandError(f"WORKER_METRICS_ADDRESS={address} cannot be used: {error.strerror}.") from error
        self._wait_for_redis()
        bound_waits()
        if settings.USE_LOCAL_REDIS:
            ThreadWorker.linger_seconds = settings.SHUTDOWN_DELAY
            ThreadWorker.before_finishing = staticmethod(shutdown.close_for_good)
        spare_collector(collect_after=2_000)
        super().handle(*(args or settings.RQ_QUEUES), **options)

    def _wait_for_redis(self) -> None:
        told = False
        while True:
            try:
                return queue.ping()
            except QueueUnavailable as error:
                if not told:
                    self.stderr.write(f"Redis does not answer ({error.__cause__}); waiting for it.")
                told = True
                time.sleep(1)
