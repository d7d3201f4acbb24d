"""`manage.py sweep_archive`: settle the tasks whose jobs RQ gave up."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from predictions import maintenance
from predictions.queue.queue import QueueUnavailable


class Command(BaseCommand):
    help = (
        'Sets the tasks whose jobs are in RQ\'s failed registry to failed ("failed due to system errors") and '
        "removes those jobs. The scheduler process does this every 30 minutes."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self.stdout.write(f"Archive sweep: {maintenance.sweep_archive()}.")
        except QueueUnavailable as error:
            raise CommandError("Redis does not answer, so nothing was changed. Is REDIS_ADDRESS right?") from error
