"""Record updates that no client may make; the row stays unchanged."""

import json
from typing import Any

import pytest
from rest_framework.test import APIClient

from predictions.models import Task

NUL, HALF = "a\0b", "a\ud800b"


def send(client: APIClient, method: str, body: dict[str, Any]) -> Any:
    """As ASCII: the test client's own JSON cannot write half a surrogate pair."""
    return client.generic(method, "/task", json.dumps(body), content_type="application/json")


def row() -> dict[str, Any]:
    (found,) = Task.objects.values()
    return {name: value for name, value in found.items() if name != "updated_at"}


@pytest.fixture
def task() -> Task:
    return Task.objects.create(id="t-1", model_name="iris", status="running")


@pytest.mark.parametrize(
    "fields",
    [
        {"id": NUL},
        {"id": HALF},
        {"id": "../admin"},
        {"id": "x" * 65},
        {"id": "t 1"},
        {"id": ["t"]},
        {"model_name": NUL},
        {"model_name": HALF},
        {"model_name": "x" * 201},
        {"model_name": {"a": 1}},
        {"model_version": NUL},
        {"model_version": "x" * 101},
        {"queue_num": 10**30},
        {"queue_num": -1},
        {"queue_num": "NaN"},
        {"queue_num": 1.5},
        {"status": "done"},
        {"status": NUL},
        {"status": ["running"]},
    ],
    ids=str,
)
def test_a_new_record_with_a_field_that_cannot_be_kept_is_refused(
    record_client: APIClient, fields: dict[str, Any]
) -> None:
    response = send(record_client, "POST", {"id": "new", "model_name": "m", **fields})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request")
    assert response.json()["field"] == next(iter(fields))
    assert not Task.objects.exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "done"},
        {"status": NUL},
        {"running_time": "1e999s"},
        {"running_time": "-1s"},
        {"running_time": "nan"},
        {"running_time": "9" * 5000},
        {"running_time": {"seconds": 1}},
        {"error_info": NUL},
        {"error_info": HALF},
        {"error_info": ["x"]},
        {"queue_id": NUL},
        {"queue_id": "x" * 65},
    ],
    ids=lambda fields: str(fields)[:60],
)
def test_a_change_with_a_field_that_cannot_be_kept_is_refused(
    record_client: APIClient, task: Task, fields: dict[str, Any]
) -> None:
    before = row()
    response = send(record_client, "PUT", {"id": "t-1", **fields})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request"), response.content
    assert row() == before


@pytest.mark.parametrize("task_id", [NUL, HALF, "x" * 1000, "../task", ""])
def test_a_change_with_an_invalid_task_id_is_refused(record_client: APIClient, task: Task, task_id: str) -> None:
    response = send(record_client, "PUT", {"id": task_id, "status": "failed"})
    assert response.status_code in (400, 404)
    assert Task.objects.get().status == "running"


def test_outputs_may_be_any_json(record_client: APIClient, task: Task) -> None:
    outputs = {NUL: [HALF, 1e308, 10**300, {"": None}], "deep": [[[[[[]]]]]]}
    response = send(record_client, "PUT", {"id": "t-1", "status": "succeeded", "outputs": outputs})
    assert (response.status_code, response.json()["outputs"]) == (200, outputs)
    assert record_client.get("/task/t-1").json()["outputs"] == outputs


@pytest.mark.parametrize(
    "name", ["id", "agent", "run_id", "upstream_id", "request_id", "attempt", "inputs", "platform", "user_id"]
)
def test_nothing_else_of_a_record_is_a_clients_to_write(record_client: APIClient, task: Task, name: str) -> None:
    before = row()
    send(record_client, "PUT", {"id": "t-1", name: "t-1" if name == "id" else "mine", "queue_id": ""})
    assert row() == before


@pytest.mark.parametrize(
    "query", ["model_name=%00&status=running", "model_name=m&status=%00", "model_name=m&status=x", ""]
)
def test_a_strange_question_for_a_models_tasks_is_refused(record_client: APIClient, query: str) -> None:
    assert record_client.get(f"/task/modelstatus?{query}").status_code == 400
