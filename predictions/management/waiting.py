"""Canceling everything that waits, for the two commands that offer it."""

from predictions import submission
from predictions.management.output import AgentCommand
from predictions.queue import queue


def cancel_waiting(command: AgentCommand, *, yes: bool) -> None:
    """Asks (unless `yes`), cancels, and answers how many. Raises QueueUnavailable and RecordUnavailable."""
    waiting = queue.sizes().waiting
    if waiting and not command.confirm(f"Cancel all of the {waiting} waiting tasks?", yes=yes):
        command.tell("Nothing was canceled.")
        return
    waiting, canceled = submission.cancel_pending()
    command.answer({"waiting": waiting, "canceled": canceled}, f"{canceled} of {waiting} waiting tasks canceled.")
