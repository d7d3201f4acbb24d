"""`manage.py init_check`: find unfinished tasks on which nothing works any more."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from predictions import maintenance
from predictions.queue.queue import QueueUnavailable
from predictions.recorder import RecordUnavailable


class Command(BaseCommand):
    help = (
        "Looks at every pending or running task of this agent: one that nothing works on is failed when it is older "
        "than TASK_TIMEOUT, and queued again when it is a younger pending one. Safe at any time, also twice at once."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self.stdout.write(f"Init check: {maintenance.init_check()}.")
        except QueueUnavailable as error:
            raise CommandError("Redis does not answer, so nothing was changed. Is REDIS_ADDRESS right?") from error
        except RecordUnavailable as error:
            raise CommandError("The database does not answer. Is DATABASE_URL right?") from error
