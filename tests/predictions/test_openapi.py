"""/openapi.json and /docs: the document covers every route, and each of its examples gets the described answer."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from django.utils.timezone import now
from rest_framework.test import APIClient

from config.settings import PLATFORMS
from predictions import submission
from predictions.api import errors
from predictions.api.openapi import document
from predictions.api.serializers import TASK_ID, TaskSerializer, task_object
from predictions.models import Task
from predictions.submission import PredictionRequest
from predictions.uploads import upload_address
from tests.helpers.document import KEYS, OPERATIONS, Operation, operation
from tests.helpers.routes import documented_routes
from tests.helpers.stub import Stub, answers, streams

IRIS = {"local": (PLATFORMS["local"][0], {**PLATFORMS["local"][1], "predictor": "examples.iris:predict"})}
CHANGING = {
    "<id>": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "<time>": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z",
    "<seconds>": r"\d+\.\d{6}s",
    '"running_time": <number>': r'"running_time": \d+\.\d+(e-\d+)?',
    "<address>": r"http://[\w.]+/media/uploads/[0-9a-f]{2}/[0-9a-f]{32}",
}
"""What differs from call to call, and how it looks."""


def masked(value: Any) -> str:
    """The value as text, without what differs from call to call."""
    text = json.dumps(value, sort_keys=True) if not isinstance(value, str) else value
    for mask, pattern in CHANGING.items():
        text = re.sub(pattern, mask, text)
    return text


def a_task(**fields: Any) -> Task:
    fields = {"pk": TASK_ID, "agent": "default", "model_name": "iris", "platform": "local", **fields}
    return Task.objects.create(**fields)


def an_ended_task() -> None:
    operation("predict").send(headers={"UID": "ann", "apikey": "operator-key"})
    Task.objects.update(id=TASK_ID)


def what_stands_before() -> dict[tuple[str, int], Callable[[], object]]:
    """(Operation, status) → what makes its example come true."""
    return {
        ("getTask", 200): an_ended_task,
        ("cancelTask", 200): lambda: a_task(status="pending"),
        ("cancelTask", 202): lambda: a_task(status="running", attempt=1),
        ("deletePending", 200): lambda: submission.submit(PredictionRequest(model_name="iris", inputs={})),
        ("changeRecord", 200): lambda: operation("createRecord").send(),
        ("listByStatus", 200): an_ended_task,
        ("uploadOfTask", 200): lambda: a_task(status="running"),
        ("uploadBatchOfTask", 200): lambda: a_task(status="running"),
    }


@pytest.fixture
def kserve() -> Iterator[dict[str, Any]]:
    """Settings for a KServe model that streams the two pieces of the example, and describes its inputs."""
    stub = Stub()
    pieces = [{"id": 0, "data": "upon"}, {"id": 1, "data": " a time"}]
    stub.script("POST /v1/models/writer:predict", streams(*(json.dumps(piece).encode() + b"\n" for piece in pieces)))
    flowers = {"instances": {"type": "list of lists of 4 numbers", "description": "The flowers to classify."}}
    stub.script("GET /v1/docs/iris", answers(flowers))
    name, arguments = PLATFORMS["kserve"]
    yield {"ML_PLATFORM": "kserve", "PLATFORMS": {"kserve": (name, {**arguments, "address": stub.address})}}
    stub.close()


def examples() -> list[tuple[Operation, int, str, Any]]:
    """(Operation, status, media type, example) of every answer of success that has one."""
    return [
        (found, status, media_type, example["value"])
        for found in OPERATIONS
        for (status, media_type), media in found.answers(successes=True).items()
        for example in media.get("examples", {}).values()
    ]


@pytest.mark.parametrize(
    ("asked", "status", "media_type", "example"), examples(), ids=lambda told: getattr(told, "id", str(told)[:20])
)
def test_an_example_is_answered_as_the_document_says(
    configured: Callable[..., None],
    kserve: dict[str, Any],
    asked: Operation,
    status: int,
    media_type: str,
    example: Any,
) -> None:
    configured(PLATFORMS=IRIS, **KEYS)
    what_stands_before().get((asked.id, status), lambda: None)()
    if asked.id in ("generate", "describeModel"):
        configured(**kserve)
    token = upload_address(TASK_ID).split("/u/")[1].split("/")[0]
    response = asked.send(headers={**asked.credentials, "Accept": media_type}, path={"token": token})
    assert response.status_code == status
    assert response["Content-Type"].partition(";")[0] == media_type
    received = b"".join(response).decode() if response.streaming else response.json()
    if response.streaming and media_type == "application/json":
        received = json.loads(received)
    assert masked(received) == masked(example)
    required = [
        name for name, header in asked.told["responses"][str(status)]["headers"].items() if header.get("required")
    ]
    assert all(response.has_header(name) for name in required)


def test_every_answer_of_json_has_an_example() -> None:
    answered = {(found.id, status) for found, status, _, _ in examples()}
    expected = {
        (found.id, status)
        for found in OPERATIONS
        for status, media_type in found.answers(successes=True)
        if media_type in ("application/json", "application/x-ndjson", "text/event-stream")
    }
    assert expected - answered == {("getOpenAPI", 200)}  # it would be the document itself


def test_the_document_is_one_of_openapi_3_1(client: APIClient) -> None:
    assert client.get("/openapi.json").json()["openapi"].startswith("3.1.")


def test_every_route_is_in_the_document_and_nothing_else() -> None:
    documented = {(found.path.replace("{task_id}", "{id}"), found.method.upper()) for found in OPERATIONS}
    assert documented == documented_routes("config.urls")


def test_every_scheme_of_the_document_lets_in_and_nothing_else_does(configured: Callable[..., None]) -> None:
    configured(**KEYS)
    for found in OPERATIONS:
        refused = found.send(headers={}).status_code == 401
        assert refused == bool(found.schemes), found.id


def test_every_code_of_the_table_is_in_the_document_with_a_sentence() -> None:
    in_table = {code for _, status, code, _ in errors.TABLE if status}
    descriptions = {
        code: sentence
        for found in OPERATIONS
        for status, response in found.told["responses"].items()
        if status >= "400"
        for code, sentence in re.findall(r"`(\w+)`: ([^;]+)", response["description"])
    }
    assert in_table - descriptions.keys() == {"method_not_allowed"}
    assert "405 `method_not_allowed`" in document()["info"]["description"]


def test_every_error_of_a_route_is_described_and_shown() -> None:
    for found in OPERATIONS:
        for (status, _), media in found.answers(successes=False).items():
            shown = {example["value"]["code"] for example in media["examples"].values()}
            assert shown
            if found.id != "ready":  # its answer says which of the checks fails
                described = re.findall(r"`(\w+)`: ", found.told["responses"][str(status)]["description"])
                assert set(described) == shown, (found.id, status)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"status": "pending", "queue_num": 3, "queue_id": TASK_ID, "model_version": "2"},
        {"status": "running", "started_at": datetime(2026, 11, 22, 17, tzinfo=UTC), "attempt": 2},
        {"status": "failed", "error_info": "no", "ended_at": now(), "started_at": now()},
        {"status": "succeeded", "running_time": 0.0146712, "outputs": {"a": [None, "é"]}, "platform": "local"},
    ],
    ids=lambda fields: fields.get("status", "empty"),
)
def test_the_agent_answers_tasks_as_the_serializer_of_the_document_renders_them(fields: dict[str, Any]) -> None:
    task = Task(model_name="iris", **fields)
    assert list(task_object(task).items()) == list(TaskSerializer(task).data.items())


def test_every_route_has_a_summary_of_its_own() -> None:
    summaries = {found.told["summary"] for found in OPERATIONS}
    assert len(summaries - {""}) == len(OPERATIONS)


def test_the_document_says_nothing_of_this_deployment(settings: Any, configured: Callable[..., None]) -> None:
    names, keys, addresses = ("MODEL_NAME", "REPLICATE_MODEL_ID"), ("METRICS_KEY", "RUNPOD_APIKEY"), ("KSERVE_ADDRESS",)
    marked = {name: f"marked-{name.lower()}" for name in (*names, *keys, *addresses)}
    configured(API_KEYS=["marked-api-key"], **marked)
    document.cache_clear()
    text = json.dumps(document())
    document.cache_clear()
    assert "marked-" not in text
    secrets = [settings.SECRET_KEY, *settings.OPERATOR_KEYS, settings.WEBHOOK_APIKEY]
    servers = settings.REDIS_SENTINELS or [settings.REDIS_ADDRESS]
    assert not [word for word in (*secrets, *servers) if word in text]


@pytest.mark.parametrize("route", ["/docs", "/openapi.json"])
def test_documentation_is_open_until_it_is_switched_off(
    client: APIClient, configured: Callable[..., None], route: str
) -> None:
    configured(**KEYS)
    assert client.get(route).status_code == 200
    configured(API_DOCS=False)
    response = client.get(route)
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_the_page_may_load_from_its_own_host_alone(client: APIClient) -> None:
    page = client.get("/docs")
    assert "default-src 'none'" in page["Content-Security-Policy"]
    assert "unsafe" not in page["Content-Security-Policy"]
    text = page.content.decode()
    assert "swagger-ui-bundle.js" in text
    assert "//" not in text.replace("<!DOCTYPE html>", "")
    assert "<style" not in text
    assert not re.search(r"<script>", text)
