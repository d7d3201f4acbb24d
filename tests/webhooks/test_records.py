"""The record service on its wire."""

import json
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils.timezone import now
from rest_framework.test import APIClient

from predictions.models import Task

NEW = {"id": "t-1", "model_name": "iris"}


def create(client: APIClient, **fields: Any) -> Any:
    return client.post("/task", {**NEW, **fields}, format="json", headers={"UID": "ann"})


def change(client: APIClient, **fields: Any) -> Any:
    return client.put("/task", {"id": "t-1", **fields}, format="json")


def listed(response: Any) -> list[dict[str, Any]]:
    assert response.status_code == 200
    found: list[dict[str, Any]] = json.loads(b"".join(response))
    return found


def test_a_record_is_created_pending(record_client: APIClient) -> None:
    response = create(record_client, model_version="2", queue_num=4)
    assert (response.status_code, response.json()) == (200, {"id": "t-1"})
    body = record_client.get("/task/t-1").json()
    assert (body["status"], body["model_version"], body["queue_num"]) == ("pending", "2", 4)
    assert (Task.objects.get().user_id, Task.objects.get().agent) == ("ann", "")


def test_an_id_that_exists_is_a_conflict(record_client: APIClient) -> None:
    create(record_client)
    response = create(record_client, model_name="other")
    assert (response.status_code, response.json()["code"]) == (409, "already_exists")
    assert Task.objects.get().model_name == "iris"


def test_a_task_goes_through_its_states(record_client: APIClient) -> None:
    create(record_client)
    assert change(record_client, status="running", queue_id="q-1").json()["queue_id"] == "q-1"
    body = change(record_client, status="succeeded", outputs={"y": 1}, running_time="0.014670133590698242s").json()
    assert (body["status"], body["outputs"], body["running_time"]) == ("succeeded", {"y": 1}, "0.014670s")
    task = Task.objects.get()
    assert task.created_at <= task.started_at <= task.ended_at


def test_empty_and_missing_fields_are_unchanged(record_client: APIClient) -> None:
    create(record_client, model_version="2")
    change(record_client, status="running", queue_id="q-1")
    body = change(record_client, status="", queue_id="", outputs=None, error_info="", database_only=True).json()
    assert (body["status"], body["queue_id"], body["outputs"]) == ("running", "q-1", None)


def test_an_unknown_record_is_404(record_client: APIClient) -> None:
    assert change(record_client, status="running").status_code == 404
    assert record_client.get("/task/t-1").status_code == 404


@pytest.mark.parametrize("ended", ["succeeded", "failed", "canceled"])
@pytest.mark.parametrize("status", ["pending", "running", "succeeded", "failed", "canceled"])
def test_an_ended_record_never_changes(record_client: APIClient, ended: str, status: str) -> None:
    create(record_client)
    change(record_client, status="running")
    change(record_client, status=ended)
    response = change(record_client, status=status, error_info="late")
    assert (response.status_code, response.json()["code"]) == (409, "invalid_transition")
    assert (Task.objects.get().status, Task.objects.get().error_info) == (ended, "")


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        ("pending", "succeeded", 409),
        ("running", "pending", 409),
        ("pending", "failed", 200),
        ("pending", "canceled", 200),
        ("running", "running", 200),
    ],
)
def test_only_the_state_machines_moves_are_possible(
    record_client: APIClient, before: str, after: str, status: int
) -> None:
    create(record_client, status=before)
    assert change(record_client, status=after).status_code == status
    assert Task.objects.get().status == (after if status == 200 else before)


def test_the_same_said_twice_is_no_error(record_client: APIClient) -> None:
    create(record_client, status="running")
    for _ in range(2):
        assert change(record_client, status="succeeded", outputs=[1], running_time="0.5s").status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [("status", "done"), ("running_time", "fast"), ("queue_id", 7), ("error_info", {}), ("id", 7), ("id", "")],
)
def test_a_wrong_field_is_named(record_client: APIClient, field: str, value: Any) -> None:
    create(record_client)
    response = change(record_client, **{field: value})
    assert (response.status_code, response.json()["field"]) == (400, field)


@pytest.mark.parametrize(
    "bad",
    [
        {"id": ""},
        {"id": "a b"},
        {"id": "x" * 65},
        {"id": 5},
        {"model_name": ""},
        {"model_name": "half \ud800 a character"},
        {"queue_num": -1},
        {"queue_num": "3"},
        {"queue_num": True},
        {"queue_num": 1.5},
    ],
)
def test_a_wrong_new_record_is_refused(record_client: APIClient, bad: dict[str, Any]) -> None:
    body = json.dumps({**NEW, **bad})
    response = record_client.post("/task", body, content_type="application/json")
    assert (response.status_code, response.json()["field"]) == (400, next(iter(bad)))


def test_model_status_lists_a_models_tasks_asked_in_a_body_or_the_query(record_client: APIClient) -> None:
    create(record_client, status="running")
    asked = {"model_name": "iris", "status": "running"}
    in_body = record_client.generic(
        "GET", "/task/modelstatus", '{"model_name": "iris", "status": "running"}', "application/json"
    )
    in_query = record_client.get("/task/modelstatus", asked)
    (entry,) = listed(in_query)
    assert listed(in_body) == [entry]
    assert list(entry) == [
        "id",
        "task_id",
        "user_id",
        "model_name",
        "created_at",
        "updated_at",
        "running_time",
        "status",
    ]
    assert (entry["task_id"], entry["user_id"], entry["running_time"]) == ("t-1", "ann", 0)
    assert listed(record_client.get("/task/modelstatus", {**asked, "status": "failed"})) == []


def test_model_status_asked_in_a_body_without_a_content_type(record_client: APIClient) -> None:
    """As the Go original does: a GET with a JSON body and no Content-Type."""
    create(record_client, status="running")
    asked = '{"model_name":"iris","status":"running"}'
    response = record_client.generic("GET", "/task/modelstatus", asked, content_type="")
    assert [entry["task_id"] for entry in listed(response)] == ["t-1"]


def test_model_status_lists_all_tasks_however_many_newest_first(record_client: APIClient) -> None:
    """Also those of one moment, which pages must neither lose nor repeat."""
    moment = now()
    Task.objects.bulk_create(
        Task(
            pk=f"t-{number:04}", model_name="iris", status="running", created_at=moment - timedelta(days=number // 900)
        )
        for number in range(2500)
    )
    asked = {"model_name": "iris", "status": "running"}
    with CaptureQueriesContext(connection) as queries:
        entries = listed(record_client.get("/task/modelstatus", asked))
    assert len(queries) == 3
    assert len({entry["task_id"] for entry in entries}) == len(entries) == 2500
    times = [entry["created_at"] for entry in entries]
    assert times == sorted(times, reverse=True)


def test_the_running_time_of_an_ended_task_is_a_number_of_seconds(record_client: APIClient) -> None:
    create(record_client, status="running")
    change(record_client, status="succeeded", running_time="0.5s")
    (entry,) = listed(record_client.get("/task/modelstatus", {"model_name": "iris", "status": "succeeded"}))
    assert entry["running_time"] == 0.5


def test_a_queue_id_that_comes_after_the_end_is_kept(record_client: APIClient) -> None:
    """The Go original notes it after it has queued the task, and a quick task may have ended by then."""
    create(record_client)
    change(record_client, status="running")
    change(record_client, status="succeeded", outputs={"y": 1})
    response = change(record_client, status="", running_time="", outputs=None, error_info="", queue_id="q-1")
    assert (response.status_code, response.json()["queue_id"]) == (200, "q-1")
    assert (Task.objects.get().status, Task.objects.get().outputs) == ("succeeded", {"y": 1})


@pytest.mark.parametrize(("method", "route"), [("post", "/task"), ("put", "/task"), ("get", "/task/modelstatus")])
def test_the_record_service_is_closed_without_its_key(
    client: APIClient, operator: APIClient, method: str, route: str, configured: Any
) -> None:
    assert getattr(client, method)(route).status_code == 401
    assert getattr(operator, method)(route).status_code == 403
    configured(WEBHOOK_APIKEY="")
    assert getattr(client, method)(route, headers={"apikey": "record-key"}).status_code == 403


def test_records_of_other_agents_are_not_passed_on(record_client: APIClient, configured: Any) -> None:
    configured(TASK_RECORDER="tests.nowhere")
    assert create(record_client).status_code == 200
