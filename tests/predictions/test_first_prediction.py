"""The README's first prediction, sent as it is written there."""

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from rest_framework.test import APIClient

from config.settings import PLATFORMS
from tests.helpers.pages import README
from tests.predictions.test_cancel import until

SECTION = README.partition("## First prediction\n")[2].partition("\n## ")[0]
LATER = "…"


@dataclass(frozen=True)
class Command:
    """A curl command of the section."""

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
        path = re.sub(rf"[0-9a-f-]+{LATER}$", task_id, self.path)
        content_type = self.headers.get("Content-Type", "application/x-www-form-urlencoded" if self.body else "")
        return APIClient().generic(self.method, path, self.body, content_type=content_type)


COMMANDS = [
    Command.read(text)
    for shell in re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)
    for text in re.findall(r"^curl (?:.*\\\n)*.*$", shell, re.MULTILINE)
]


@pytest.fixture(autouse=True)
def _iris(configured: Callable[..., None]) -> None:
    """As scripts/run starts it."""
    name, arguments = PLATFORMS["local"]
    configured(PLATFORMS={"local": (name, {**arguments, "predictor": "examples.iris:predict"})})


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
    (shown,) = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", SECTION, re.DOTALL))
    received = COMMANDS[0].send()
    assert received.status_code == 200
    assert begins_like(shown, received.json()), received.json()
    assert shown["outputs"]["predictions"][0]["species"] == "setosa"


def test_the_queued_one_is_read_and_canceled_by_its_id(start_worker: Callable[..., object]) -> None:
    _, submit, read, cancel = COMMANDS
    start_worker()
    (task_id,) = submit.send().json().values()
    until(lambda: read.send(task_id).json()["status"] == "running")
    assert cancel.send(task_id).status_code == 202
    until(lambda: read.send(task_id).json()["status"] == "canceled")
