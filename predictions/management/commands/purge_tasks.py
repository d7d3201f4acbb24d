"""`manage.py purge_tasks`: delete old tasks."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from predictions import maintenance
from predictions.recorder import RecordUnavailable
from predictions.uploads import StorageUnavailable


class Command(BaseCommand):
    help = "Deletes tasks that ended longer than TASK_RETENTION ago, in batches."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self.stdout.write(f"Purge: {maintenance.purge_tasks()}.")
        except RecordUnavailable as error:
            raise CommandError("The database does not answer. Is DATABASE_URL right?") from error
        except StorageUnavailable as error:
            raise CommandError(f"The storage of uploads did not delete a file ({error}); its task stays.") from error
