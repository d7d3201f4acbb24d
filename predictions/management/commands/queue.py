"""`manage.py queue`: how long it is, and holding, resuming, draining and emptying it."""

import getpass
import sys
import time
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser

from predictions.database.errors import release_connection
from predictions.management.arguments import duration
from predictions.management.interruption import interruption
from predictions.management.output import INTERRUPTED, AgentCommand, printable
from predictions.management.waiting import cancel_waiting
from predictions.operations import statistics
from predictions.queue import queue
from predictions.queue.overview import overview

LOOK_EVERY_SECONDS = 0.5
COMMANDS = {
    "size": "how many tasks wait and run in workers, and whether the queue is paused",
    "pause": "stop giving tasks to workers; the agent still accepts submissions, and running tasks go on",
    "resume": "give tasks to workers again",
    "drain": """wait until no task of this agent waits or runs, sync and streaming ones included.
It refuses nothing: stop sending before (end web, or close the gate in front of it).
With --running only until nothing runs: after a pause, before the platform is worked on""",
    "delete-waiting": "cancel every waiting task, after a question; running tasks go on",
}


class Command(AgentCommand):
    help = "Looks at this agent's queue (TASK_TYPE_NAME), and acts on it. `queue COMMAND --help` says more."
    examples = """\
  manage.py queue size --json                {"waiting", "running", "max", "paused_by", "workers", "slots"}
  manage.py queue pause && manage.py queue drain --running --timeout 10m
  manage.py queue drain --progress           --json: {"waiting": 0, "running": 0, "seconds"}
  manage.py queue delete-waiting --yes       --json: {"waiting", "canceled"}"""

    def add_arguments(self, parser: CommandParser) -> None:
        size, pause, resume, drain, delete = self.add_commands(parser, COMMANDS)
        size.set_defaults(run=self._size)
        pause.set_defaults(run=self._pause)
        resume.set_defaults(run=self._resume)
        drain.set_defaults(run=self._drain)
        self.add_progress(drain)
        delete.set_defaults(run=lambda yes, **options: cancel_waiting(self, yes=yes))
        drain.add_argument("--running", action="store_true", help="only until nothing runs")
        drain.add_argument("--timeout", type=duration, metavar="10m", help="give up after so long, with exit code 1")
        delete.add_argument("--yes", action="store_true", help="do not ask")

    def _size(self, **options: Any) -> None:
        now, bound = overview(), settings.MAX_QUEUE_SIZE
        paused = f"; paused by {printable(now.paused_by)}" if now.paused_by else ""
        self.answer(
            {
                "waiting": now.waiting,
                "running": now.running,
                "max": bound,
                "paused_by": now.paused_by or None,
                "workers": now.workers_alive,
                "slots": now.slots,
            },
            f"{now.waiting} of {bound} wait, {now.running} of {now.slots} slots run{paused}.",
        )

    def _pause(self, **options: Any) -> None:
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a container's user may have no name
            user = "somebody"
        queue.pause(f"{user} (manage.py)")
        self.answer({"paused": True}, "Paused: tasks are accepted, and stay waiting. `manage.py queue resume` goes on.")

    def _resume(self, **options: Any) -> None:
        queue.resume()
        self.answer({"paused": False}, "Resumed.")

    def _drain(self, *, timeout: timedelta | None, **options: Any) -> None:
        running_only: bool = options["running"]
        started = time.monotonic()
        if not running_only and queue.paused() and statistics.unfinished().waiting:
            self.refuse(
                "The queue is paused, so waiting tasks stay: run `manage.py queue resume` first, or add --running."
            )
        with interruption() as interrupted:
            while True:
                unfinished = statistics.unfinished()
                release_connection()
                waiting, running = unfinished.waiting, unfinished.running
                seconds = time.monotonic() - started
                if not running and (running_only or not waiting):
                    break
                left = f"{waiting} wait, {running} run"
                if timeout is not None and seconds >= timeout.total_seconds():
                    self.fail("timeout", f"It is not drained after {seconds:.0f} s: {left}.")
                self.progress.say(f"{left} …")
                if interrupted.wait(LOOK_EVERY_SECONDS):
                    sys.exit(INTERRUPTED)
        document = {"waiting": waiting, "running": running, "seconds": round(seconds, 3)}
        self.answer(document, "Nothing runs." if running_only else "Drained: nothing waits or runs.")
