"""Sync predictions, through the API on the local platform."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from predictions.models import Task
from tests.helpers import predictors
from tests.helpers.api import INPUTS, predict
from tests.helpers.proxy import Proxy


def test_a_prediction_is_answered_as_the_ended_task(client: APIClient) -> None:
    response = predict(client)
    assert response.status_code == 200
    body = response.json()
    assert list(body)[:10] == [
        "id",
        "model_name",
        "model_version",
        "status",
        "running_time",
        "created_at",
        "outputs",
        "error_info",
        "queue_num",
        "queue_id",
    ]
    assert body["status"] == "succeeded"
    assert body["outputs"] == {"echo": INPUTS}
    assert body["running_time"].endswith("s")
    assert float(body["running_time"][:-1]) >= 0
    assert body["created_at"].endswith("Z")


def test_the_record_is_the_answer(client: APIClient) -> None:
    body = predict(client).json()
    assert client.get(f"/task/{body['id']}").json() == body
    task = Task.objects.get()
    assert (task.status, task.inputs, task.user_id) == ("succeeded", INPUTS, "")
    assert task.created_at <= task.started_at <= task.ended_at


def test_the_uid_header_says_whose_task_it_is(client: APIClient) -> None:
    client.post("/v1/predict", {"model_name": "iris", "inputs": {}}, format="json", headers={"UID": "ann"})
    assert Task.objects.get().user_id == "ann"


def test_unknown_keys_are_ignored_and_a_version_is_kept(client: APIClient) -> None:
    assert predict(client, model_version="3", colour="blue").json()["model_version"] == "3"


def test_the_models_own_running_time_is_lifted_out_of_its_outputs(client: APIClient) -> None:
    body = predict(client, {"answer": {"predictions": [1], "running_time": "3.98e-05s"}}).json()
    assert body["running_time"] == "0.000040s"
    assert body["outputs"] == {"predictions": [1]}


@pytest.mark.parametrize("answer", [None, 7, "text", [1, {"a": None}], {"s": "nul \x00 \ud800"}, {"big": 10**30}])
def test_whatever_json_a_model_answers_is_kept(client: APIClient, answer: Any) -> None:
    sent = json.dumps({"model_name": "iris", "inputs": {"answer": answer}})
    body = client.post("/v1/predict", sent, content_type="application/json").json()
    assert body["outputs"] == answer
    assert Task.objects.get().outputs == answer


def test_inputs_a_model_refuses_are_the_callers_error(client: APIClient) -> None:
    response = predict(client, {"raise": "ValueError", "message": "send four numbers"})
    assert (response.status_code, response.json()) == (
        400,
        {"error": "send four numbers", "code": "invalid_inputs", "task_id": Task.objects.get().pk},
    )
    assert (Task.objects.get().status, Task.objects.get().error_info) == ("failed", "send four numbers")


def test_a_model_that_breaks_is_a_platform_error_without_its_traceback(client: APIClient) -> None:
    response = predict(client, {"raise": "KeyError", "message": "/srv/secret"})
    assert (response.status_code, response.json()["code"]) == (502, "platform_error")
    assert "secret" not in response.content.decode()
    assert Task.objects.get().status == "failed"


def test_a_prediction_that_takes_too_long_is_a_timeout(client: APIClient, configured: Callable[..., None]) -> None:
    configured(TASK_TIMEOUT=0.2, PLATFORMS=_local_platform(timeout_seconds=0.2))
    response = predict(client, {"wait": True})
    assert (response.status_code, response.json()["code"]) == (504, "platform_timeout")
    assert Task.objects.get().status == "failed"


def _local_platform(timeout_seconds: float) -> dict[str, Any]:
    arguments = {"predictor": "tests.helpers.predictors:predict", "timeout_seconds": timeout_seconds}
    return {"local": ("platforms.local.Local", arguments)}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "model_name"),
        ({"model_name": "", "inputs": {}}, "model_name"),
        ({"model_name": "   ", "inputs": {}}, "model_name"),
        ({"model_name": 7, "inputs": {}}, "model_name"),
        ({"model_name": "a\x00b", "inputs": {}}, "model_name"),
        ({"model_name": "m" * 201, "inputs": {}}, "model_name"),
        ({"model_name": "iris"}, "inputs"),
        ({"model_name": "iris", "inputs": [1]}, "inputs"),
        ({"model_name": "iris", "inputs": None}, "inputs"),
        ({"model_name": "iris", "inputs": "{}"}, "inputs"),
        ({"model_name": "iris", "inputs": {}, "model_version": 3}, "model_version"),
    ],
)
def test_a_wrong_field_is_named_and_leaves_no_record(client: APIClient, body: Any, field: str) -> None:
    response = client.post("/v1/predict", body, format="json")
    assert response.status_code == 400
    assert (response.json()["code"], response.json()["field"]) == ("invalid_request", field)
    assert not Task.objects.exists()


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[1]",
        '"text"',
        '{"model_name": "iris", "inputs": {"x": NaN}}',
        '{"model_name": "m", "inputs": {"x": 1e400}}',
        "[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_a_body_that_is_not_a_json_object_is_refused(client: APIClient, body: str | bytes) -> None:
    response = client.post("/v1/predict", body, content_type="application/json")
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request")


def test_other_content_types_are_refused(client: APIClient) -> None:
    response = client.post("/v1/predict", {"model_name": "iris"}, format="multipart")
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("route", ["/v1/predict", "/async/v1/predict"])
def test_a_body_without_a_content_type_is_json(client: APIClient, route: str) -> None:
    response = client.generic("POST", route, json.dumps({"model_name": "iris", "inputs": INPUTS}), content_type="")
    assert response.status_code == 200
    assert Task.objects.get().inputs == INPUTS


@pytest.mark.parametrize("route", ["/v1/predict", "/async/v1/predict", "/v1/generate"])
def test_a_browser_must_say_that_its_body_is_json(client: APIClient, route: str) -> None:
    """A page of another site can have a browser send a body without a type, and an Origin with it."""
    body = json.dumps({"model_name": "iris", "inputs": INPUTS})
    response = client.generic("POST", route, body, content_type="", headers={"Origin": "https://elsewhere.example"})
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")
    assert not Task.objects.exists()


@pytest.mark.parametrize("route", ["/v1/predict", "/async/v1/predict", "/v1/generate"])
def test_what_curl_sends_without_a_header_is_refused_with_the_header_to_add(client: APIClient, route: str) -> None:
    body = json.dumps({"model_name": "iris", "inputs": INPUTS})
    response = client.generic("POST", route, body, content_type="application/x-www-form-urlencoded")
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")
    assert "'Content-Type: application/json'" in response.json()["error"]


def test_a_sync_prediction_costs_one_insert_and_one_update(client: APIClient) -> None:
    predict(client)
    with CaptureQueriesContext(connection) as queries:
        predict(client)
    assert [query["sql"].split()[0] for query in queries] == ["INSERT", "UPDATE"]


def test_a_defect_of_ours_leaves_no_task_running(client: APIClient, configured: Callable[..., None]) -> None:
    configured(PLATFORMS={"local": ("platforms.local.Nowhere", {})})
    client.raise_request_exception = False
    response = predict(client)
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert (Task.objects.get().status, Task.objects.get().error_info) == ("failed", "internal error")


def test_the_request_id_is_taken_in_and_handed_back(client: APIClient) -> None:
    given = client.get("/live", headers={"X-Request-ID": "abc-1"})
    assert given["X-Request-ID"] == "abc-1"
    made = client.get("/live", headers={"X-Request-ID": "bad id\twith spaces"})
    assert len(made["X-Request-ID"]) == 32


def test_the_platform_gets_one_request(client: APIClient) -> None:
    predict(client)
    assert predictors.calls == [{"model_name": "iris", **INPUTS}]


def test_a_sync_prediction_needs_no_redis(client: APIClient, redis_proxy: Proxy, no_watches: None) -> None:
    """Only the watch over all that run asks, twice a second for all of them."""
    before = redis_proxy.requests
    assert predict(client).status_code == 200
    assert redis_proxy.requests == before
