"""Every answer that is about a task names it: in `X-Task-ID`, and an error in `task_id` too."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import OperationalError, connection
from rest_framework.test import APIClient

from predictions.models import Task
from tests.helpers.api import predict, submit
from tests.helpers.proxy import Proxy


def the_task() -> str:
    return Task.objects.get().pk


def names(response: Any, task_id: str) -> bool:
    """Whether the answer names this task and no other, an error in its body too."""
    is_error = response.status_code >= 400
    return response["X-Task-ID"] == task_id and (not is_error or response.json()["task_id"] == task_id)


def test_a_sync_prediction_names_its_task(client: APIClient) -> None:
    assert names(predict(client), the_task())


@pytest.mark.parametrize(
    ("error", "status", "code"), [("ValueError", 400, "invalid_inputs"), ("RuntimeError", 502, "platform_error")]
)
def test_a_sync_prediction_that_fails_names_its_task(client: APIClient, error: str, status: int, code: str) -> None:
    response = predict(client, {"raise": error})
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert names(response, the_task())


def test_a_defect_of_the_agent_names_the_task(client: APIClient, configured: Callable[..., None]) -> None:
    configured(PLATFORMS={"local": ("platforms.local.Nowhere", {})})
    client.raise_request_exception = False
    response = predict(client)
    assert response.status_code == 500
    assert names(response, the_task())


def test_a_stream_that_fails_before_its_first_piece_names_its_task(client: APIClient) -> None:
    response = client.post("/v1/generate", {"model_name": "iris", "inputs": {}}, format="json")
    assert (response.status_code, response.json()["code"]) == (400, "unsupported")
    assert names(response, the_task())


def test_a_submission_names_its_task(client: APIClient) -> None:
    response = client.post("/async/v1/predict", {"model_name": "iris", "inputs": {}}, format="json")
    assert response.json() == {"id": the_task()}
    assert names(response, the_task())


def test_a_submission_that_fails_names_the_record_of_its_failure(client: APIClient, redis_proxy: Proxy) -> None:
    redis_proxy.cut()
    response = client.post("/async/v1/predict", {"model_name": "iris", "inputs": {}}, format="json")
    assert (response.status_code, Task.objects.get().status) == (503, "failed")
    assert names(response, the_task())


def test_an_answer_without_a_task_on_record_names_none(client: APIClient, configured: Callable[..., None]) -> None:
    def no_database(*args: object) -> None:
        raise OperationalError("the server closed the connection")

    with connection.execute_wrapper(no_database):
        unrecorded = predict(client)
    configured(MAX_QUEUE_SIZE=0)
    full = client.post("/async/v1/predict", {"model_name": "iris", "inputs": {}}, format="json")
    malformed = client.post("/v1/predict", {"inputs": {}}, format="json")
    answers = {503: unrecorded, 429: full, 400: malformed, 404: client.get("/task/nobody")}
    for status, response in answers.items():
        assert response.status_code == status
        assert not response.has_header("X-Task-ID")
        assert "task_id" not in response.json()


def test_reading_and_canceling_a_task_name_it(client: APIClient) -> None:
    task_id = submit(client)
    read, canceled, again = client.get(f"/task/{task_id}"), *(client.post(f"/cancel/{task_id}") for _ in range(2))
    assert [response.status_code for response in (read, canceled, again)] == [200, 200, 409]
    assert all(names(response, task_id) for response in (read, canceled, again))


def test_a_record_is_named_when_it_is_made_changed_and_refused(record_client: APIClient) -> None:
    made = record_client.post("/task", {"id": "t-1", "model_name": "m"}, format="json")
    changed = record_client.put("/task", {"id": "t-1", "status": "canceled"}, format="json")
    refused = record_client.put("/task", {"id": "t-1", "status": "running"}, format="json")
    assert [response.status_code for response in (made, changed, refused)] == [200, 200, 409]
    assert all(names(response, "t-1") for response in (made, changed, refused))
