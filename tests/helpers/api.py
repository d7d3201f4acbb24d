"""Requests to the HTTP API."""

from typing import Any

import requests
from rest_framework.test import APIClient

INPUTS = {"x": [1, 2, 3]}


def submit(client: APIClient, inputs: dict[str, Any] | None = None, **headers: str) -> str:
    """Submits an async prediction; its task's id."""
    body = {"model_name": "iris", "inputs": inputs or {}}
    response = client.post("/async/v1/predict", body, format="json", headers=headers)
    assert response.status_code == 200, response.content
    return str(response.json()["id"])


def predict(client: APIClient, inputs: dict[str, Any] | None = None, **more: Any) -> Any:
    body = {"model_name": "iris", "inputs": INPUTS if inputs is None else inputs, **more}
    return client.post("/v1/predict", body, format="json")


def assert_error(response: requests.Response, status: int, code: str) -> None:
    """An error in the documented form, which gives away neither code nor addresses."""
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert isinstance(response.json()["error"], str)
    assert "Traceback" not in response.text
    assert "127.0.0.1" not in response.text
