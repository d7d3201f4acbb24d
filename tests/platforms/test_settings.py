"""The PLATFORMS setting: every entry can be built, and what an entry lacks is refused at start."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rest_framework.test import APIClient

from config.settings import PLATFORMS
from platforms import Call, Platform, Prediction, PredictionResult, forget_platforms, get_platform

ROOT = Path(__file__).resolve().parents[2]


def check(**environment: str) -> tuple[int, str]:
    """What `manage.py check` says of an environment that holds only this."""
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "ENV_FILE": os.devnull, "ALLOW_ANONYMOUS": "true", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", PLATFORMS)
def test_every_platform_of_the_settings_can_be_built(name: str) -> None:
    forget_platforms()
    platform = get_platform(name, PLATFORMS)
    assert isinstance(platform, Platform)
    assert platform.name == name
    assert get_platform(name, PLATFORMS) is platform
    forget_platforms()


class Greeter(Platform):
    """A platform as the README says to add one."""

    name = "greeter"

    def __init__(self, *, greeting: str) -> None:
        self.timeout_seconds = 10.0
        self._greeting = greeting

    def predict(self, prediction: Prediction, call: Call) -> PredictionResult:
        return PredictionResult(f"{self._greeting}, {prediction.inputs['name']}")


def test_a_class_and_an_entry_are_all_that_a_new_platform_needs(
    client: APIClient, configured: Callable[..., None]
) -> None:
    entry = ("tests.platforms.test_settings.Greeter", {"greeting": "Hello"})
    configured(ML_PLATFORM="greeter", PLATFORMS={**PLATFORMS, "greeter": entry})
    body = {"model_name": "any", "inputs": {"name": "Ann"}}
    task = client.post("/v1/predict", body, format="json").json()
    assert (task["status"], task["platform"], task["outputs"]) == ("succeeded", "greeter", "Hello, Ann")
    refused = client.post("/v1/generate", body, format="json")
    assert (refused.status_code, refused.json()["code"]) == (400, "unsupported")


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("kserve", ["KSERVE_ADDRESS"]),
        ("k8s", ["K8SPLUGIN_ADDRESS"]),
        ("replicate", ["REPLICATE_APIKEY", "REPLICATE_MODEL_ID"]),
        ("runpod", ["RUNPOD_APIKEY", "RUNPOD_MODEL_ID"]),
    ],
)
def test_a_platform_without_what_it_needs_is_refused_at_start(name: str, needed: list[str]) -> None:
    status, said = check(ML_PLATFORM=name)
    assert status != 0
    assert said.count("(agent.E012)") == len(needed)
    assert all(f"{variable} is empty" in said for variable in needed)


def test_a_platform_with_all_it_needs_is_accepted() -> None:
    status, said = check(ML_PLATFORM="runpod", RUNPOD_APIKEY="k", RUNPOD_MODEL_ID="ep1")
    assert status == 0, said
