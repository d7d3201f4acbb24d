"""Every route of the API, asked with a slash at its end."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from predictions.models import Task
from tests.helpers.document import OPERATIONS, Operation


@pytest.mark.parametrize("asked", OPERATIONS, ids=lambda asked: asked.id)
def test_a_route_is_the_same_with_a_slash_at_its_end(client: APIClient, asked: Operation) -> None:
    path = asked.path.replace("{task_id}", "t-1").replace("{token}", "t").replace("{name}", "uploads/x")
    plain, slashed = client.generic(asked.method, path), client.generic(asked.method, f"{path}/")
    assert slashed.status_code == plain.status_code
    assert route_of(slashed) == route_of(plain)


def route_of(response: Any) -> str:
    match = response.wsgi_request.resolver_match  # none for /live and /ready: they are answered before any search
    return match.route if match else ""


def test_a_prediction_and_its_task_are_found_with_a_slash_at_the_end(client: APIClient) -> None:
    body = {"model_name": "iris", "inputs": {"x": 1}}
    task = client.post("/v1/predict/", body, format="json").json()
    assert task["status"] == "succeeded"
    assert client.get(f"/task/{task['id']}/").json() == task
    assert client.post(f"/cancel/{task['id']}/").status_code == 409
    assert client.post("/async/v1/predict/", body, format="json").status_code == 200
    assert Task.objects.count() == 2


@pytest.mark.parametrize("path", ["/v1/predict//", "/task//"])
def test_one_slash_is_taken_off_and_no_more(client: APIClient, path: str) -> None:
    assert client.post(path, {}, format="json").status_code == 404


def test_the_admins_pages_keep_theirs(client: APIClient) -> None:
    assert client.get("/admin/login/").status_code == 200
