"""What every command shares: help that explains, JSON for machines, progress for people, failures in a sentence."""

import json
import logging
import os
import re
import sys
import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, NoReturn

from django.core.management.base import BaseCommand, CommandError, CommandParser, DjangoHelpFormatter, OutputWrapper
from django.db import InterfaceError, OperationalError, ProgrammingError

from platforms import InvalidInputs, PlatformError, PlatformTimeout, Unsupported
from predictions.execution.runner import TaskCanceled
from predictions.operations.diagnosis.formatting import because, full_stop, root_of
from predictions.operations.maintenance import Summary
from predictions.queue.queue import QueueFull
from predictions.recorder import RecordRefused, RecordUnavailable
from predictions.redis.errors import QueueUnavailable
from predictions.uploads import StorageUnavailable

INTERRUPTED = 130
BROKEN_PIPE = 141
PROGRESS_EVERY_SECONDS = 0.2
PROGRESS_LINE_EVERY_SECONDS = 2.0

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_DATABASE = "The database does not answer{cause}. Is DATABASE_URL right, and the server running?"

# Exception → the API's code, and a sentence. The first row that fits counts; any other exception is a defect and keeps
# its traceback. {error} is the exception's message, {why} the same with its root cause in brackets, both with a full
# stop; {cause} is the root cause in brackets.
FAILURES: list[tuple[type[Exception], str, str]] = [
    (InvalidInputs, "invalid_inputs", "The platform refused the inputs: {error}"),
    (Unsupported, "unsupported", "This cannot be done: {error}"),
    (PlatformTimeout, "platform_timeout", "The prediction failed: {why}"),
    (PlatformError, "platform_error", "The prediction failed: {why} `manage.py doctor` may know why."),
    (TaskCanceled, "canceled", "The task was canceled while it ran."),
    (QueueFull, "queue_full", "Nothing was queued: {error} Try again later, or raise MAX_QUEUE_SIZE."),
    (QueueUnavailable, "unavailable", "Redis does not answer{cause}. Is REDIS_ADDRESS right, and the server running?"),
    (RecordUnavailable, "unavailable", "It could not be recorded: {why} `manage.py doctor` says more."),
    (RecordRefused, "unavailable", "The record service refused the task: {error}"),
    (ProgrammingError, "unavailable", "The database has no such tables{cause}. Run `manage.py migrate`."),
    (OperationalError, "unavailable", _DATABASE),
    (InterfaceError, "unavailable", _DATABASE),
    (StorageUnavailable, "unavailable", "The storage of uploads did not do its part: {error} Its task stays."),
]


class AgentCommand(BaseCommand):
    """Base of this agent's commands. Subclasses set `help` and `examples`, and answer by `answer`.

    Exit codes: 0, 1 for a failure, 2 for wrong usage, 130 after Ctrl-C. With --json a command prints one JSON document
    on stdout, for a failure or wrong usage `{"error", "code"}`. Logs go to stderr: warnings, and all with `-v 2`.
    """

    examples: str = ""
    as_json = False
    progress: "Progress"

    def run_from_argv(self, argv: list[str]) -> None:
        self.as_json = "--json" in argv
        super().run_from_argv(argv)

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        kwargs |= {"epilog": f"examples:\n{self.examples}" if self.examples else "", "formatter_class": _Help}
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parser.__class__ = _Parser  # Django offers no way to choose it
        _Parser.as_json = self.as_json
        return parser

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", dest="as_json", help="answer one JSON document on stdout")

    def add_progress(self, parser: CommandParser) -> None:
        """Adds --progress, for a command that may take long."""
        help_text = "tell progress on stderr also where that is no terminal"
        parser.add_argument("--progress", action="store_true", help=help_text)

    def add_commands(self, parser: CommandParser, commands: dict[str, str]) -> list[CommandParser]:
        """Adds a parser for each subcommand: name → help."""
        choice = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
        parsers: list[CommandParser] = []
        for name, says in commands.items():
            added = choice.add_parser(name, help=says, description=f"{name}: {says}", formatter_class=_Help)
            AgentCommand.add_arguments(self, added)
            parsers.append(added)
        return parsers

    def execute(self, *args: Any, **options: Any) -> str | None:
        self.as_json = options.get("as_json", False)
        errors = options.get("stderr") or sys.stderr
        self.progress = Progress(errors, shown=options.get("progress", False) or errors.isatty())
        with _quiet_logs(options["verbosity"]), self._failures_told():
            answered = super().execute(*args, **options)
            self.stdout.flush()
        return answered

    def answer(self, document: Any, text: str) -> None:
        """The command's one answer: the document for machines, or the text for people."""
        self.stdout.write(json.dumps(document, indent=2) if self.as_json else text)

    def answer_line(self, document: Any, text: str) -> None:
        """One of many answers, each of which is on its way at once: a JSON document a line, or a line of text."""
        self.stdout.write(json.dumps(document, separators=(",", ":")) if self.as_json else text)
        self.stdout.flush()

    def tell(self, text: str) -> None:
        """Writes a message for people to stderr."""
        self.progress.clear()
        self.stderr.write(text, style_func=str)

    def fail(self, code: str, sentence: str, *, returncode: int = 1, **about: str) -> NoReturn:
        """Ends the command with a sentence on stderr, and with --json as a document on stdout too."""
        if self.as_json:
            self.answer_line({"error": sentence, "code": code, **about}, "")
        raise CommandError(sentence, returncode=returncode)

    def refuse(self, sentence: str) -> NoReturn:
        """Ends the command as wrongly used."""
        self.fail("invalid_request", sentence, returncode=2)

    def confirm(self, question: str, *, yes: bool) -> bool:
        """Asks whether to go on; `yes` answers for a shell without a person."""
        if yes:
            return True
        if self.as_json or not sys.stdin.isatty():
            self.refuse("This needs a confirmation, and there is no terminal to ask: add --yes.")
        self.stderr.write(f"{question} [y/N] ", style_func=str, ending="")
        self.stderr.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def handle(self, *args: Any, **options: Any) -> None:
        """Calls the chosen subcommand, its parser's default of `run`. Commands without subcommands override this."""
        options["run"](**options)

    @contextmanager
    def _failures_told(self) -> Iterator[None]:
        try:
            yield
        except tuple(kind for kind, _, _ in FAILURES) as error:
            _, code, sentence = next(row for row in FAILURES if isinstance(error, row[0]))
            root = root_of(error)
            filled = sentence.format(
                error=full_stop(str(error)), why=full_stop(because(error)), cause=f" ({root})" if root else ""
            )
            self.fail(code, printable(filled))
        except KeyboardInterrupt:
            self.tell("\nInterrupted.")
            sys.exit(INTERRUPTED)
        except BrokenPipeError:  # `… | head` has read enough; flushing the buffer at exit must not raise again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(BROKEN_PIPE)
        finally:
            self.progress.clear()


class MaintenanceCommand(AgentCommand):
    """Base of the commands that settle or delete tasks: --dry-run, --progress, and a summary as the answer."""

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        self.add_progress(parser)
        parser.add_argument("--dry-run", action="store_true", help="count what would be done, and do nothing")

    def answer_summary(self, title: str, summary: Summary, *, dry_run: bool) -> None:
        would_do = " would do" if dry_run else ""
        self.answer({"dry_run": dry_run, **asdict(summary)}, f"{title}{would_do}: {summary}.")


class _Parser(CommandParser):
    """Adds a JSON document on stdout to the usage errors that argparse prints on stderr."""

    as_json = False

    def error(self, message: str) -> Any:
        if self.as_json:
            sys.stdout.write(json.dumps({"error": message, "code": "invalid_request"}) + "\n")
        return super().error(message)


class _Help(DjangoHelpFormatter, RawDescriptionHelpFormatter):
    """Django's order of options; descriptions and examples as they are written."""


class Progress:
    """A line on stderr that says how far a long command is: rewritten on a terminal, a new one now and then elsewhere.

    A function of (done, total or None), as the core's long functions take it.
    """

    def __init__(self, stream: OutputWrapper | Any, *, shown: bool) -> None:
        self._stream = stream
        self._shown = shown
        self._is_terminal = stream.isatty()
        self._every = PROGRESS_EVERY_SECONDS if self._is_terminal else PROGRESS_LINE_EVERY_SECONDS
        self._told_at = float("-inf")
        self._written = False

    def __call__(self, done: int, total: int | None = None) -> None:
        self.say(f"{done} of {total} …" if total is not None else f"{done} …")

    def say(self, text: str) -> None:
        if not self._shown or time.monotonic() - self._told_at < self._every:
            return
        self._told_at = time.monotonic()
        self._stream.write(f"\r\033[K{text}" if self._is_terminal else f"{text}\n")
        self._stream.flush()
        self._written = True

    def clear(self) -> None:
        """Takes the line away before something else is written."""
        if self._written and self._is_terminal:
            self._stream.write("\r\033[K")
            self._stream.flush()
        self._written = False


@contextmanager
def _quiet_logs(verbosity: int) -> Iterator[None]:
    """Shows only warnings and errors from the log, unless -v 2 asks for all: commands print their own results."""
    root = logging.getLogger()
    level = root.level
    if verbosity < 2:
        root.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        root.setLevel(level)


def printable(text: str) -> str:
    """Text that does nothing to a terminal: callers choose models' and users' names."""
    return _CONTROL.sub("�", text)


def readable_json(value: Any) -> str:
    """JSON for people, in their own letters."""
    return printable(json.dumps(value, indent=2, ensure_ascii=False))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as they need to be."""
    lines = [list(head), *([" ".join(printable(cell).split()) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
