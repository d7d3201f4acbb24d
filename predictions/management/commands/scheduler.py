"""`manage.py scheduler`: queue the maintenance that is due."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from predictions import jobs
from predictions.queue.scheduler import Scheduler

MINUTE = 60


class Command(BaseCommand):
    help = (
        "Queues the archive sweep and the init check (every 30 and 5 minutes, unless ENABLE_PERIODIC_CHECK=false), the "
        "purge (hourly) and the dashboard's counts (every minute); workers run them. Several schedulers do no harm."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        scheduler = Scheduler()
        if settings.ENABLE_PERIODIC_CHECK:
            scheduler.every(30 * MINUTE, jobs.sweep_archive)
            scheduler.every(5 * MINUTE, jobs.init_check)
        scheduler.every(60 * MINUTE, jobs.purge_tasks)
        scheduler.every(MINUTE, jobs.count_ended)
        self.stdout.write(f"Scheduler: {len(scheduler.get_jobs())} jobs for {settings.MAINTENANCE_QUEUE}.")
        scheduler.run()
