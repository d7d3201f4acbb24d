"""`manage.py sweep_archive`: settle the tasks whose jobs RQ gave up."""

from typing import Any

from predictions.management.output import MaintenanceCommand
from predictions.operations import maintenance


class Command(MaintenanceCommand):
    help = """\
Sets the tasks whose jobs are in RQ's failed registry to failed ("failed due to system errors") and removes those jobs.
A job whose task could not be written stays. Safe at any time; the scheduler process does this every 30 minutes."""
    examples = """\
  manage.py sweep_archive               settle what RQ gave up
  manage.py sweep_archive --dry-run     only count it
  manage.py sweep_archive --json        {"dry_run", "failed", "left", …}"""

    def handle(self, *args: Any, dry_run: bool, **options: Any) -> None:
        summary = maintenance.sweep_archive(dry_run=dry_run, on_progress=self.progress)
        self.answer_summary("Archive sweep", summary, dry_run=dry_run)
