"""A platform that is added as the README says."""

from collections.abc import Callable

from rest_framework.test import APIClient

from config.settings import PLATFORMS
from platforms import Call, Platform, Prediction, PredictionResult


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
    entry = ("tests.predictions.test_new_platform.Greeter", {"greeting": "Hello"})
    configured(ML_PLATFORM="greeter", PLATFORMS={**PLATFORMS, "greeter": entry})
    body = {"model_name": "any", "inputs": {"name": "Ann"}}
    task = client.post("/v1/predict", body, format="json").json()
    assert (task["status"], task["platform"], task["outputs"]) == ("succeeded", "greeter", "Hello, Ann")
    refused = client.post("/v1/generate", body, format="json")
    assert (refused.status_code, refused.json()["code"]) == (400, "unsupported")
