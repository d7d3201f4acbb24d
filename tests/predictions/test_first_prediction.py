"""The README's predictions, sent as it shows them, and its own model."""

import json
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rest_framework.test import APIClient

from config.settings import PLATFORMS
from tests.helpers.pages import README
from tests.helpers.waiting import until

FIRST, _, OWN_MODEL = README.partition("## Run your own model\n")
LATER = "…"


@dataclass(frozen=True)
class Command:
    """A curl command of the README."""

    method: str
    path: str
    headers: dict[str, str]
    body: str

    @classmethod
    def read(cls, text: str) -> "Command":
        words = shlex.split(text)
        options = [(option, value) for option, value in pairwise(words) if option in ("-H", "-d", "-X")]
        given = dict(options)
        return cls(
            method=given.get("-X", "POST" if "-d" in given else "GET"),
            path=next(word for word in words if word.startswith("http")).removeprefix("http://127.0.0.1:8000"),
            headers=dict(value.split(": ") for option, value in options if option == "-H"),
            body=given.get("-d", ""),
        )

    def send(self, task_id: str = "") -> Any:
        path = self.path.replace("$TASK", task_id)
        content_type = self.headers.get("Content-Type", "application/x-www-form-urlencoded" if self.body else "")
        return APIClient().generic(self.method, path, self.body, content_type=content_type)


def commands(text: str) -> list[Command]:
    blocks = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    blocks = re.sub(r"^TASK=\$\((curl .*?) \|\n +cut -d '\"' -f 4\)$", r"\1", blocks, flags=re.MULTILINE | re.DOTALL)
    return [Command.read(command) for command in re.findall(r"^curl (?:.*\\\n)*.*$", blocks, re.MULTILINE)]


COMMANDS = commands(FIRST)


@pytest.fixture(autouse=True)
def _iris(configured: Callable[..., None]) -> None:
    """As scripts/run starts it."""
    name, arguments = PLATFORMS["local"]
    configured(PLATFORMS={"local": (name, {**arguments, "predictor": "examples:models"})})


def begins_like(shown: Any, received: Any) -> bool:
    """Whether the answer is the one shown, as far as that goes."""
    if isinstance(shown, dict):
        known = [name for name in shown if name != LATER]
        return list(received)[: len(known)] == known and all(begins_like(shown[name], received[name]) for name in known)
    if isinstance(shown, list):
        return len(shown) == len(received) and all(map(begins_like, shown, received))
    return True if isinstance(shown, str) and changes(shown) else bool(shown == received)


def changes(text: str) -> bool:
    """Ids, times and durations."""
    return text.endswith((LATER, "Z")) or re.fullmatch(r"\d\.\d{6}s", text) is not None


def test_the_sync_prediction_is_answered_as_the_readme_shows() -> None:
    (shown,) = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", FIRST, re.DOTALL))
    received = COMMANDS[0].send()
    assert received.status_code == 200
    assert begins_like(shown, received.json()), received.json()
    assert shown["outputs"]["predictions"][0]["species"] == "setosa"


def test_the_queued_one_is_read_and_canceled_by_its_id(start_worker: Callable[..., object]) -> None:
    _, submit, read, cancel, _ = COMMANDS
    start_worker()
    task_id = submit.send().content.decode().split('"')[3]
    until(lambda: read.send(task_id).json()["status"] == "running")
    assert cancel.send(task_id).status_code == 202
    until(lambda: read.send(task_id).json()["status"] == "canceled")


def test_the_second_example_streams_its_words() -> None:
    streamed = COMMANDS[4].send()
    pieces = [json.loads(line)["data"] for line in b"".join(streamed).splitlines()]
    assert pieces[0] == "The girl"
    assert len(pieces) == 61


def test_a_function_of_your_own_is_the_model(
    configured: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (file,) = re.findall(r"Save this as `(\w+\.py)`", OWN_MODEL)
    (code,) = re.findall(r"```python\n(.*?)```", OWN_MODEL, re.DOTALL)
    (predictor,) = re.findall(r"^ML_PLATFORM=local LOCAL_PREDICTOR=(\S+) scripts/run$", OWN_MODEL, re.MULTILINE)
    (tmp_path / file).write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    name, arguments = PLATFORMS["local"]
    configured(PLATFORMS={"local": (name, {**arguments, "predictor": predictor})})
    (command,) = commands(OWN_MODEL)
    assert command.send().json()["outputs"] == {"greeting": "Hello, Ann"}
    monkeypatch.delitem(sys.modules, file.removesuffix(".py"))
