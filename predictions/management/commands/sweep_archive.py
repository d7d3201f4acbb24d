"""`manage.py sweep_archive`: settle the tasks whose jobs RQ gave up."""

from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandParser

from predictions.management.output import AgentCommand
from predictions.operations import maintenance


class Command(AgentCommand):
    help = """\
Sets the tasks whose jobs are in RQ's failed registry to failed ("failed due to system errors") and removes those jobs.
A job whose task could not be written stays. Safe at any time; the scheduler process does this every 30 minutes."""
    examples = """\
  manage.py sweep_archive               settle what RQ gave up
  manage.py sweep_archive --dry-run     only count it
  manage.py sweep_archive --json        {"dry_run", "failed", "left", …}"""
    is_long = True

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--dry-run", action="store_true", help="count what would be done, and do nothing")

    def handle(self, *args: Any, dry_run: bool, **options: Any) -> None:
        summary = maintenance.sweep_archive(dry_run=dry_run, on_progress=self.progress)
        title = "Archive sweep would do" if dry_run else "Archive sweep"
        self.answer({"dry_run": dry_run, **asdict(summary)}, f"{title}: {summary}.")
