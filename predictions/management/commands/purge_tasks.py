"""`manage.py purge_tasks`: delete old tasks."""

from datetime import timedelta
from typing import Any

from django.core.management.base import CommandParser

from predictions.management.arguments import duration
from predictions.management.output import MaintenanceCommand
from predictions.operations import maintenance


class Command(MaintenanceCommand):
    help = """\
Deletes tasks that ended longer than TASK_RETENTION ago, with their uploaded files, in batches. What the record service
has not heard of stays. Safe at any time, and may be interrupted; the scheduler process does this every hour."""
    examples = """\
  manage.py purge_tasks                          older than TASK_RETENTION
  manage.py purge_tasks --older-than 7d          older than seven days
  manage.py purge_tasks --older-than 1h --dry-run
  manage.py purge_tasks --json                   {"dry_run", "purged", …}"""

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--older-than",
            type=duration,
            metavar="7d",
            help="how long ago a task ended, instead of TASK_RETENTION: 90s, 30m, 48h, 7d",
        )

    def handle(self, *args: Any, dry_run: bool, older_than: timedelta | None, **options: Any) -> None:
        summary = maintenance.purge_tasks(older_than, dry_run=dry_run, on_progress=self.progress)
        self.answer_summary("Purge", summary, dry_run=dry_run)
