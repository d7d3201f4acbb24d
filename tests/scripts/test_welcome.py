"""The text that scripts/run prints once the agent is up."""

import json
import shlex

import pytest

from scripts.starting.addresses import Address
from scripts.starting.welcome import welcome

ADDRESS = Address("HTTP_SERVER_ADDRESS", "127.0.0.1", 8000)


@pytest.fixture
def greet(monkeypatch: pytest.MonkeyPatch) -> "Greet":
    return Greet(monkeypatch)


class Greet:
    """The text for an environment that holds only these settings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def __call__(self, *, operator: str = "operator", password: str = "", **environment: str) -> str:
        for name in ("ML_PLATFORM", "LOCAL_PREDICTOR", "MODEL_NAME", "API_KEYS"):
            self._monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            self._monkeypatch.setenv(name, value)
        return welcome(ADDRESS, operator, password)


def bodies(text: str) -> list[str]:
    """The request bodies of the printed curl commands."""
    commands = [line for line in text.splitlines() if " -d '" in line]
    return [shlex.split(command.partition(" | ")[0].removeprefix("  TASK=$("))[-1] for command in commands]


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"ML_PLATFORM": "", "LOCAL_PREDICTOR": ""},
        {"ML_PLATFORM": " local ", "LOCAL_PREDICTOR": "examples:models", "MODEL_NAME": "wine"},
    ],
    ids=str,
)
def test_for_the_example_model_the_commands_can_be_copied_as_they_are(
    greet: Greet, environment: dict[str, str]
) -> None:
    text = greet(**environment)
    now, streamed, queued = map(json.loads, bodies(text))
    assert now == {"model_name": "iris", "inputs": {"instances": [[5.1, 3.5, 1.4, 0.2]]}}
    assert queued == {"model_name": "iris", "inputs": {"instances": [[5.1, 3.5, 1.4, 0.2]], "delay_seconds": 60}}
    assert streamed == {"model_name": "text", "inputs": {"prompt": "The girl"}}
    assert "Replace" not in text
    assert "takes a minute" in text


@pytest.mark.parametrize(
    ("environment", "model"),
    [
        ({"ML_PLATFORM": "kserve", "MODEL_NAME": "llm"}, "llm"),
        ({"ML_PLATFORM": "kserve"}, "YOUR_MODEL"),
        ({"ML_PLATFORM": "replicate"}, "YOUR_MODEL"),
        ({"LOCAL_PREDICTOR": "shop.prices:predict"}, "YOUR_MODEL"),
        ({"LOCAL_PREDICTOR": "shop.prices:predict", "MODEL_NAME": "it's"}, "it's"),
    ],
    ids=str,
)
def test_for_another_model_the_inputs_are_a_placeholder_to_replace(
    greet: Greet, environment: dict[str, str], model: str
) -> None:
    text = greet(**environment)
    assert bodies(text) == [f'{{"model_name": "{model}", "inputs": YOUR_INPUTS}}'] * 2
    assert "YOUR_INPUTS with the model's inputs, a JSON object." in text
    assert ("Replace YOUR_MODEL" in text) is ("MODEL_NAME" not in environment)
    for word in ("iris", "instances", "delay_seconds", "minute", "generate"):
        assert word not in text


def test_it_says_how_to_change_a_forgotten_password(greet: Greet) -> None:
    assert ".venv/bin/python manage.py changepassword operator\n" in greet(password="sesame")
    assert ".venv/bin/python manage.py changepassword anna\n" in greet(operator="anna")
    assert ".venv/bin/python manage.py changepassword 'anna b'\n" in greet(operator="anna b")
