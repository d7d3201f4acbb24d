"""Runs commands in this process as a shell does: their output and exit code."""

import io
import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command, load_command_class
from django.db import connections

from predictions.models import Task


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """The documents on stdout, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]


class Shell:
    """Runs commands with `stdin`; `ctrl_c` presses that key once its condition holds, and again `presses` times."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def __call__(
        self,
        command: str,
        *arguments: str,
        stdin: str = "",
        terminal: bool = False,
        ctrl_c: Callable[[], Any] = lambda: False,
        presses: int = 1,
    ) -> Ran:
        typed = io.StringIO(stdin)
        typed.isatty = lambda: terminal  # type: ignore[method-assign]
        self._monkeypatch.setattr("sys.stdin", typed)
        self._capsys.readouterr()
        over = threading.Event()
        keyboard = threading.Thread(target=_press, args=(ctrl_c, presses, over), daemon=True)
        keyboard.start()
        code = 0
        try:
            load_command_class("predictions", command).run_from_argv(["manage.py", command, *arguments])
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            over.set()
            keyboard.join()
        captured = self._capsys.readouterr()
        return Ran(code, captured.out, captured.err)


def listens() -> bool:
    """Whether the command has come to where it hears Ctrl-C itself."""
    return signal.getsignal(signal.SIGINT) is not signal.default_int_handler


def _press(when: Callable[[], Any], presses: int, over: threading.Event) -> None:

    try:
        while presses and not over.wait(0.02):
            if when():
                os.kill(os.getpid(), signal.SIGINT)
                presses -= 1
                over.wait(0.3)
    finally:
        connections.close_all()


def move(row: Task, status: str, **fields: Any) -> None:
    Task.objects.filter(pk=row.pk).update(status=status, **fields)


def run(command: str) -> str:
    out = StringIO()
    call_command(command, stdout=out)
    return out.getvalue()
