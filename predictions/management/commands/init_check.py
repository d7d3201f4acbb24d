"""`manage.py init_check`: find unfinished tasks on which nothing works any more."""

from typing import Any

from predictions.management.output import MaintenanceCommand
from predictions.operations import maintenance


class Command(MaintenanceCommand):
    help = """\
Looks at every pending or running task of this agent on which nothing works. A running one fails once it is older than
TASK_TIMEOUT. A pending one is queued again, and fails once it is older than TASK_RETENTION. Ended tasks that the record
service has not heard of are reported to it. Safe at any time, also twice at once; the scheduler process does this every
5 minutes."""
    examples = """\
  manage.py init_check                  settle lost tasks
  manage.py init_check --dry-run        only count it
  manage.py init_check --json           {"dry_run", "failed", "enqueued_again", "reported", "left", …}"""

    def handle(self, *args: Any, dry_run: bool, **options: Any) -> None:
        summary = maintenance.init_check(dry_run=dry_run, on_progress=self.progress)
        self.answer_summary("Init check", summary, dry_run=dry_run)
