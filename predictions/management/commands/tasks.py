"""`manage.py tasks`: list, show, cancel and follow tasks."""

import sys
from datetime import datetime
from typing import Any

from django.core.management.base import CommandParser
from django.utils.timezone import now

from predictions import submission
from predictions.api.serializers import task_object, time_text
from predictions.database.errors import database_errors
from predictions.management.arguments import moment, positive
from predictions.management.following import changes
from predictions.management.interruption import interruption
from predictions.management.output import INTERRUPTED, AgentCommand, printable, readable_json, table
from predictions.management.waiting import cancel_waiting
from predictions.models import Task, TaskQuerySet

COMMANDS = {
    "list": "the newest tasks, newest first",
    "show": "one task, with its inputs and outputs",
    "cancel": "take waiting tasks out of the queue, and end running predictions; exit code 1 if one could not be",
    "follow": """every change of the tasks until all have ended; exit code 1 if one did not succeed.
Without ids: those of every new task, until Ctrl-C""",
}
FILTERS = {"status": "status", "model": "model_name", "user": "user_id", "platform": "platform"}
"""Option → the column that has its value."""
LISTED = ("status", "model_name", "model_version", "platform", "user_id", "error_info", "attempt", "running_time")
SHOWN = ("agent", "user_id", "request_id", "upstream_id", "upstream_cancel", "unreported", "inputs")


class Command(AgentCommand):
    help = "Looks at tasks, and cancels them. `tasks COMMAND --help` says more."
    examples = """\
  manage.py tasks list --status failed --since 2h
  manage.py tasks list --model iris --user anna --limit 100 --json    {"tasks": [{"id", "status", …}]}
  manage.py tasks show 4df7acfc-…                                     --json: the task as /task/{id}, and its inputs
  manage.py tasks cancel 4df7acfc-… 9b2e…                             --json: {"canceled", "ending", "failed"}
  manage.py tasks cancel --all-pending --yes                          --json: {"waiting", "canceled"}
  manage.py tasks follow 4df7acfc-…                                   --json: a document a line
  manage.py tasks follow --model iris"""

    def add_arguments(self, parser: CommandParser) -> None:
        listing, showing, canceling, following = self.add_commands(parser, COMMANDS)
        listing.set_defaults(run=self._list)
        showing.set_defaults(run=self._show)
        canceling.set_defaults(run=self._cancel)
        following.set_defaults(run=self._follow)
        for filtered in (listing, following):
            filtered.add_argument("--model", help="of this model")
            filtered.add_argument("--user", help="of this user (the UID header)")
            filtered.add_argument("--platform", help="on this platform")
        listing.add_argument("--status", choices=Task.Status.values)
        listing.add_argument("--since", type=moment, metavar="2h", help="submitted then or later: 2h ago, or a date")
        listing.add_argument("--limit", type=positive, default=20, help="at most so many (20)")
        showing.add_argument("id", help="the task's id")
        canceling.add_argument("ids", nargs="*", metavar="id", help="tasks")
        canceling.add_argument("--all-pending", action="store_true", help="every task that waits, after a question")
        canceling.add_argument("--yes", action="store_true", help="do not ask")
        following.add_argument("ids", nargs="*", metavar="id", help="tasks; none: every new one")

    def _list(self, *, limit: int, **options: Any) -> None:
        with database_errors():
            tasks = list(_chosen(options).defer("inputs", "outputs")[:limit])
        rows = [
            (task.pk, task.status, _model(task), task.platform, task.user_id, _when(task.created_at), _seconds(task))
            for task in tasks
        ]
        head = ("ID", "STATUS", "MODEL", "PLATFORM", "USER", "SUBMITTED (UTC)", "RUN TIME")
        self.answer({"tasks": [_listed(task) for task in tasks]}, table(head, rows) if rows else "No such tasks.")

    def _show(self, *, id: str, **options: Any) -> None:  # noqa: A002  (the argument's name)
        with database_errors():
            task = Task.objects.filter(pk=id).first()
        if task is None:
            self.fail("not_found", f"There is no task {printable(id)}.")
        whole = task_object(task) | {name: getattr(task, name) for name in SHOWN}
        json_fields = ("inputs", "outputs")
        lines = [f"{name + ':':16} {printable(str(value))}" for name, value in whole.items() if name not in json_fields]
        lines += [f"{name}:\n{readable_json(whole[name])}" for name in json_fields]
        self.answer(whole, "\n".join(lines))

    def _cancel(self, *, ids: list[str], all_pending: bool, yes: bool, **options: Any) -> None:
        if bool(ids) == all_pending:
            self.refuse("Say which tasks to cancel: their ids, or --all-pending.")
        if all_pending:
            cancel_waiting(self, yes=yes)
            return
        done: dict[str, list[Any]] = {"canceled": [], "ending": [], "failed": []}
        lines = []
        for task_id in dict.fromkeys(ids):
            outcome, said, code = _cancel(task_id)
            done[outcome].append({"id": task_id, "error": said, "code": code} if code else task_id)
            lines.append(f"{printable(task_id)}: {said}")
        self.answer(done, "\n".join(lines))
        if done["failed"]:
            sys.exit(1)

    def _follow(self, *, ids: list[str], **options: Any) -> None:
        followed = Task.objects.all() if ids else _chosen(options)
        statuses: dict[str, str] = {}
        with interruption() as interrupted:
            for task in changes(followed, interrupted, ids=ids, since=None if ids else now()):
                statuses[task.pk] = task.status
                self.answer_line(_listed(task), _line(task))
            if interrupted.is_set():
                sys.exit(INTERRUPTED)
        if unknown := [task_id for task_id in dict.fromkeys(ids) if task_id not in statuses]:
            self.fail("not_found", f"There is no task {printable(', '.join(unknown))}.")
        if set(statuses.values()) != {Task.Status.SUCCEEDED}:
            sys.exit(1)


def _chosen(options: dict[str, Any]) -> TaskQuerySet:
    asked = {field: options[name] for name, field in FILTERS.items() if options.get(name) is not None}
    tasks = Task.objects.newest(**asked)
    return tasks.filter(created_at__gte=options["since"]) if options.get("since") else tasks


def _cancel(task_id: str) -> tuple[str, str, str]:
    """Returns the result (`canceled`, `ending` or `failed`), a sentence, and the error's code."""
    try:
        was_running = submission.cancel(task_id)
    except submission.TaskNotFound:
        return "failed", "no task has this id", "not_found"
    except submission.AlreadyFinished as error:
        return "failed", str(error), "already_finished"
    except submission.NotOurs:
        return "failed", "it runs on another agent: cancel it there", "not_ours"
    return ("ending", "canceled; its prediction is being ended", "") if was_running else ("canceled", "canceled", "")


def _listed(task: Task) -> dict[str, Any]:
    times = {name: time_text(getattr(task, name)) for name in ("created_at", "started_at", "ended_at")}
    return {"id": task.pk, **{name: getattr(task, name) for name in LISTED}, **times}


def _line(task: Task) -> str:
    attempt = f" (attempt {task.attempt})" if task.attempt > 1 else ""
    why = f": {printable(task.error_info)}" if task.error_info else ""
    seconds = f" in {_seconds(task)}" if task.status == Task.Status.SUCCEEDED else ""
    return f"{_when(task.updated_at)}  {task.pk}  {printable(_model(task))}  {task.status}{attempt}{seconds}{why}"


def _model(task: Task) -> str:
    return f"{task.model_name} {task.model_version}".strip()


def _when(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _seconds(task: Task) -> str:
    return "" if task.running_time is None else f"{task.running_time:.3f} s"
