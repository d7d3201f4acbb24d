"""The Go original's requests and environments against this agent: what works as before, and each difference.

docs/from-the-original.md names these tests.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.utils.timezone import now

from predictions.models import Task
from tests.e2e.original import KEY, QUEUE_ID, RECORDED, TASK_ID, ask, recorded, send
from tests.helpers.servers import ROOT, Server, database_url
from tests.helpers.stub import Step, Stub, answers, closed_port, hangs, says, streams
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

Serve = Callable[..., Server]

PREDICT = "POST /v1/models/iris:predict"
OPERATOR = "apikey: operator-key"
FIELDS = [
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
"""Of a task, in the original's order."""
NEW_FIELDS = ["started_at", "ended_at", "attempt", "platform"]


@pytest.fixture
def stub() -> Iterator[Stub]:
    server = Stub()
    yield server
    server.close()


@pytest.fixture
def records(serve: Serve) -> Server:
    """The record service, with its key and its database under the names of the original's webhook service."""
    return serve("webhook", WEBHOOK_APIKEY="", SECRET_APIKEY=KEY, DATABASE_URL="", DB_SOURCE=database_url())


@pytest.fixture
def web(serve: Serve) -> Server:
    """Whose model answers 7 to the recorded prediction; anybody may call."""
    return serve("web")


@pytest.fixture
def kserve(serve: Serve, stub: Stub) -> Callable[..., Server]:
    """Starts `web` in front of a KServe that takes a step."""

    def start(step: Step, **environment: str) -> Server:
        stub.script(PREDICT, step)
        return serve("web", **{"ML_PLATFORM": "kserve", "KSERVE_ADDRESS": stub.address, **environment})

    return start


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_request_is_whole(name: str) -> None:
    head, _, body = RECORDED[name].partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    assert int(length[1] if length else 0) == len(body)


# --- Requests of the original's agent to its record service


def test_its_sync_prediction_is_recorded(records: Server) -> None:
    created = ask(records, "create a running task")
    assert (created.status, created.json) == (200, {"id": TASK_ID})
    changed = ask(records, "succeed")
    read = ask(records, "read")
    assert (changed.status, read.status) == (200, 200)
    assert changed.json == read.json
    assert list(read.json) == FIELDS + NEW_FIELDS
    assert {name: read.json[name] for name in FIELDS if name != "created_at"} == {
        "id": TASK_ID,
        "model_name": "iris",
        "model_version": "",
        "status": "succeeded",
        "running_time": "0.014600s",
        "outputs": {"predictions": [0]},
        "error_info": "",
        "queue_num": 0,
        "queue_id": "",
    }
    created_at = datetime.strptime(read.json["created_at"], "%Y-%m-%dT%H:%M:%S.%f%z")
    assert abs(now() - created_at) < timedelta(minutes=5)
    assert created_at.tzinfo == UTC
    assert Task.objects.get().user_id == "alice"


def test_its_async_prediction_is_recorded(records: Server) -> None:
    assert ask(records, "create a waiting task").status == 200
    assert (ask(records, "read").json["status"], ask(records, "read").json["queue_num"]) == ("pending", 3)
    for request in ("note the queue's id", "begin", "succeed"):
        assert ask(records, request).status == 200, request
    read = ask(records, "read").json
    assert (read["status"], read["queue_id"], read["outputs"]) == ("succeeded", QUEUE_ID, {"predictions": [0]})


def test_its_note_of_the_queues_id_may_come_after_the_tasks_end(records: Server) -> None:
    for request in ("create a waiting task", "begin", "succeed", "note the queue's id"):
        assert ask(records, request).status == 200, request
    read = ask(records, "read").json
    assert (read["status"], read["queue_id"]) == ("succeeded", QUEUE_ID)


def test_its_failed_prediction_is_recorded(records: Server) -> None:
    ask(records, "create a running task")
    failed = ask(records, "fail")
    assert (failed.status, failed.json["status"], failed.json["outputs"]) == (200, "failed", None)
    assert failed.json["error_info"].endswith("error: map[error:no <b>], retries: 0")


def test_its_canceled_task_is_recorded(records: Server) -> None:
    ask(records, "create a waiting task")
    assert (ask(records, "cancel").status, ask(records, "read").json["status"]) == (200, "canceled")


def test_its_streams_running_time_has_no_unit(records: Server) -> None:
    ask(records, "create a running task")
    assert ask(records, "end a stream").json["running_time"] == "1.250000s"


@pytest.mark.parametrize("request_name", ["find it lost", "find it lost, in the database alone"])
def test_it_finds_and_fails_the_tasks_that_its_crash_left_running(records: Server, request_name: str) -> None:
    ask(records, "create a running task")
    found = ask(records, "list running tasks")
    assert (found.status, [task["task_id"] for task in found.json]) == (200, [TASK_ID])
    assert ask(records, "read").json["status"] == "running"
    assert ask(records, request_name).json["status"] == "failed"
    assert ask(records, "list running tasks").json == []


def test_it_finds_the_tasks_that_wait_and_their_ids_in_its_queue(records: Server) -> None:
    ask(records, "create a waiting task")
    ask(records, "note the queue's id")
    assert [task["task_id"] for task in ask(records, "list waiting tasks").json] == [TASK_ID]
    assert ask(records, "read").json["queue_id"] == QUEUE_ID


def test_the_list_of_a_models_tasks_has_all_of_them(records: Server) -> None:
    Task.objects.bulk_create(Task(model_name="iris", status="running", running_time=0.5) for _ in range(2500))
    listed = ask(records, "list running tasks").json
    assert {task["task_id"] for task in listed} == set(Task.objects.values_list("pk", flat=True))
    assert len(listed) == 2500
    assert {task["running_time"] for task in listed} == {0.5}


def test_a_listed_tasks_id_is_no_number(records: Server) -> None:
    ask(records, "create a running task")
    (listed,) = ask(records, "list running tasks").json
    assert listed["id"] == listed["task_id"] == TASK_ID
    assert list(listed) == [
        "id",
        "task_id",
        "user_id",
        "model_name",
        "created_at",
        "updated_at",
        "running_time",
        "status",
    ]
    assert listed["running_time"] == 0.0


def test_a_second_record_with_the_same_id_is_refused(records: Server) -> None:
    ask(records, "create a running task")
    again = ask(records, "create a running task")
    assert (again.status, again.json["code"]) == (409, "already_exists")


def test_an_ended_record_does_not_change(records: Server) -> None:
    for request in ("create a running task", "succeed"):
        ask(records, request)
    refused = ask(records, "find it lost")
    assert (refused.status, refused.json["code"], refused.json["task_id"]) == (409, "invalid_transition", TASK_ID)
    assert ask(records, "read").json["status"] == "succeeded"


@pytest.mark.parametrize("request_name", ["read", "begin"])
def test_an_unknown_record_is_not_found(records: Server, request_name: str) -> None:
    answer = ask(records, request_name)
    assert (answer.status, answer.json["code"]) == (404, "not_found")


def test_a_status_that_is_none_is_refused(records: Server) -> None:
    words = recorded(records, "create a running task").replace(b'"running"', b'"unknown"')
    answer = send(records, words)
    assert (answer.status, answer.json["field"]) == (400, "status")


def test_a_record_service_without_a_key_is_closed(serve: Serve) -> None:
    records = serve("webhook", WEBHOOK_APIKEY="", SECRET_APIKEY="", ALLOW_ANONYMOUS="")
    for name in ("create a running task", "read", "list running tasks", "upload"):
        request = recorded(records, name)
        without_a_key = re.sub(rb"(?i)apikey: \d+\r\n", b"", request)
        assert [send(records, one).status for one in (request, without_a_key)] == [401, 401], name


def test_a_file_is_kept_and_read_again(records: Server) -> None:
    uploaded = ask(records, "upload")
    assert (uploaded.status, list(uploaded.json)) == (200, ["url"])
    path = uploaded.json["url"].removeprefix(records.url)
    assert re.fullmatch(r"/media/uploads/[0-9a-f]{2}/[0-9a-f]{32}\.zip", path)
    assert ask(records, "live", path=path).body == b"weights and biases"


@pytest.mark.parametrize("number", [b"NUM_FILES: 2\r\n", b"NUM_FILES: 7\r\n", b""])
def test_the_files_of_a_batch_are_counted_and_not_their_header(records: Server, number: bytes) -> None:
    answer = send(records, recorded(records, "upload a batch").replace(b"NUM_FILES: 2\r\n", number))
    assert (answer.status, len(set(answer.json["urls"]))) == (200, 2)


def test_a_file_may_be_shorter_than_eight_bytes(records: Server) -> None:
    short = recorded(records, "upload").replace(b"weights and biases", b"w").replace(b": 218", b": 201")
    assert send(records, short).status == 200


# --- Requests of its callers


def test_a_sync_prediction(web: Server) -> None:
    answer = ask(web, "predict")
    assert (answer.status, list(answer.json)) == (200, FIELDS + NEW_FIELDS)
    assert (answer.json["status"], answer.json["outputs"]) == ("succeeded", 7)
    assert re.fullmatch(r"\d+\.\d{6}s", answer.json["running_time"])
    assert Task.objects.get().user_id == "alice"


def test_a_sync_tasks_queue_number_is_null(web: Server) -> None:
    assert ask(web, "predict").json["queue_num"] is None


def test_an_async_prediction_is_answered_with_its_id(web: Server, serve: Serve) -> None:
    answer = ask(web, "predict later")
    task_id = answer.json["id"]
    assert (answer.status, answer.json) == (200, {"id": task_id})
    assert ask(web, "read as a caller", task_id=task_id).json["status"] == "pending"
    serve("worker")
    until(lambda: ask(web, "read as a caller", task_id=task_id).json["status"] == "succeeded")
    assert ask(web, "read as a caller", task_id=task_id).json["outputs"] == 7


def test_an_async_task_has_its_place_in_the_queue_and_its_own_id_there(web: Server) -> None:
    ids = [ask(web, "predict later").json["id"] for _ in range(3)]
    tasks = [ask(web, "read as a caller", task_id=task_id).json for task_id in ids]
    assert [task["queue_num"] for task in tasks] == [0, 1, 2]
    assert [task["queue_id"] for task in tasks] == ids


def test_a_full_queue_is_answered_429_and_says_when_to_come_again(serve: Serve) -> None:
    web = serve("web", MAX_QUEUE_SIZE="1")
    assert ask(web, "predict later").status == 200
    full = ask(web, "predict later")
    assert (full.status, full.json["code"], full.headers["Retry-After"]) == (429, "queue_full", "5")


def test_a_body_without_a_content_type_is_json(web: Server) -> None:
    request = recorded(web, "predict").replace(b"Content-Type: application/json\r\n", b"")
    assert send(web, request).json["outputs"] == 7


def test_a_body_with_curls_own_content_type_is_refused_with_the_header_to_send(web: Server) -> None:
    answer = ask(web, "predict, with curl's own content type")
    assert (answer.status, answer.json["code"]) == (415, "unsupported_media_type")
    assert "'Content-Type: application/json'" in answer.json["error"]
    assert not Task.objects.exists()


def test_an_unknown_task_is_not_found(web: Server) -> None:
    for request in ("read as a caller", "cancel as a caller"):
        answer = ask(web, request)
        assert (answer.status, answer.json["code"]) == (404, "not_found"), request


def test_a_waiting_task_is_canceled(web: Server) -> None:
    task_id = ask(web, "predict later").json["id"]
    canceled = ask(web, "cancel as a caller", task_id=task_id)
    assert (canceled.status, canceled.json) == (200, {"id": task_id})


def test_a_running_task_is_canceled_too(kserve: Callable[..., Server], serve: Serve, stub: Stub) -> None:
    web = kserve(hangs)
    serve("worker", ML_PLATFORM="kserve", KSERVE_ADDRESS=stub.address)
    task_id = ask(web, "predict later").json["id"]
    until(lambda: stub.count(PREDICT))
    canceled = ask(web, "cancel as a caller", task_id=task_id)
    assert (canceled.status, canceled.json) == (202, {"id": task_id})
    assert stub.hung_up.wait(20)


def test_an_ended_task_cannot_be_canceled(web: Server) -> None:
    refused = ask(web, "cancel as a caller", task_id=ask(web, "predict").json["id"])
    assert (refused.status, refused.json["code"], refused.json["status"]) == (409, "already_finished", "succeeded")


def test_a_stream_is_lines_of_json(kserve: Callable[..., Server]) -> None:
    web = kserve(streams(b'{"id": 0, "data": "to"}\n', b'{"id": 1, "data": "ken"}\n'))
    answer = ask(web, "generate")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/x-ndjson")
    assert [json.loads(line) for line in answer.body.splitlines()] == [
        {"id": 0, "data": "to"},
        {"id": 1, "data": "ken"},
    ]
    task = Task.objects.get(pk=answer.headers["X-Task-ID"])
    assert (task.status, task.outputs) == ("succeeded", "token")


def test_a_stream_is_events_for_those_who_accept_events(kserve: Callable[..., Server]) -> None:
    web = kserve(streams(b'{"id": 0, "data": "to"}\n'))
    events = send(web, recorded(web, "generate").replace(b"Accept: */*", b"Accept: text/event-stream"))
    assert events.headers["Content-Type"] == "text/event-stream"
    assert events.body == b"id: 0\ndata: to\n\nid: 1\nevent: done\ndata: \n\n"


def test_a_stream_that_breaks_off_ends_with_its_error(kserve: Callable[..., Server]) -> None:
    web = kserve(streams(b'{"id": 0, "data": "to"}\n', ends=False))
    last = json.loads(ask(web, "generate").body.splitlines()[-1])
    assert (last["id"], last["data"], last["code"]) == (1, "", "platform_error")


def test_a_models_documentation(web: Server) -> None:
    answer = ask(web, "docs")
    assert (answer.status, answer.json) == (200, {"answer": {"type": "any"}})


@pytest.mark.parametrize(
    "environment",
    [
        {"ML_PLATFORM": "replicate", "REPLICATE_APIKEY": "k", "REPLICATE_MODEL_ID": "owner/name"},
        {"ML_PLATFORM": "runpod", "RUNPOD_APIKEY": "k", "RUNPOD_MODEL_ID": "e"},
    ],
    ids=["replicate", "runpod"],
)
def test_a_platform_without_documentation_says_so(serve: Serve, environment: dict[str, str]) -> None:
    answer = ask(serve("web", **environment), "docs")
    assert (answer.status, answer.json["code"]) == (400, "unsupported")


def test_the_queues_sizes(web: Server) -> None:
    ask(web, "predict later")
    assert ask(web, "queue size").json == {"queue_size": 1}
    assert ask(web, "unfinished").json == {"num of unfinished tasks": 1, "unfinished": 1}


def test_probes(serve: Serve) -> None:
    web = serve("web", MAX_QUEUE_SIZE="1")
    assert (ask(web, "live").status, ask(web, "live").json) == (200, {"message": "API OK"})
    ready = ask(web, "ready")
    assert (ready.status, ready.json["ready"]) == (200, True)
    ask(web, "predict later")
    full = ask(web, "ready")
    assert (full.status, full.json["checks"]["redis"]) == (503, "queue full")
    assert ask(web, "ready", path="/ready?exclude=queue").status == 200


def test_metrics_have_the_same_names(serve: Serve, tmp_path: Path) -> None:
    web = serve("web", PROMETHEUS_MULTIPROC_DIR=str(tmp_path))
    ask(web, "predict")
    told = ask(web, "metrics").body.decode()
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", told, re.MULTILINE))
    assert kinds["http_requests_total"] == "counter"
    assert kinds["response_status"] == "gauge"
    assert kinds["http_response_time_seconds"] == "histogram"
    assert kinds["task_queue_size"] == kinds["task_queue_size_ratio"] == kinds["num_tasks_set_to_failed"] == "gauge"
    assert kinds["async_predict_failure_total"] == "counter"
    assert kinds["async_predict_time"] == "histogram"
    assert 'http_requests_total{path="/v1/predict"} 1.0' in told


@pytest.mark.parametrize("request_name", ["pause", "unpause", "delete pending"])
def test_operators_routes_need_an_operators_key(web: Server, request_name: str) -> None:
    refused = ask(web, request_name)
    assert (refused.status, refused.json["code"]) == (401, "unauthorized")
    assert ask(web, request_name, OPERATOR).status == 200


def test_the_queue_is_paused_and_goes_on(web: Server) -> None:
    assert ask(web, "pause", OPERATOR).json == {"paused": True}
    assert ask(web, "unpause", OPERATOR).json == {"paused": False}


def test_waiting_jobs_are_deleted_and_their_records_canceled(web: Server) -> None:
    task_id = ask(web, "predict later").json["id"]
    deleted = ask(web, "delete pending", OPERATOR)
    assert deleted.json == {"num_of_pending_tasks": 1, "num_of_deleted_tasks": 1}
    assert ask(web, "read as a caller", task_id=task_id).json["status"] == "canceled"


ERRORS: dict[str, tuple[Step | None, int, str]] = {
    "it refuses the inputs": (answers({"error": "no"}, status=400), 400, "invalid_inputs"),
    "it answers 500": (answers({"error": "no"}, status=500), 502, "platform_error"),
    "it answers without JSON": (says(b"<html>"), 502, "platform_error"),
    "it takes too long": (hangs, 504, "platform_timeout"),
    "it cannot be reached": (None, 502, "platform_error"),
}
"""The platform's behavior → the answer's status and code."""


@pytest.mark.parametrize("what", ERRORS)
def test_a_platforms_error_has_a_status_of_its_own(kserve: Callable[..., Server], what: str) -> None:
    step, status, code = ERRORS[what]
    nowhere = {} if step else {"KSERVE_ADDRESS": f"127.0.0.1:{closed_port()}"}
    web = kserve(step or hangs, KSERVE_REQUEST_TIMEOUT="1", **nowhere)
    answer = ask(web, "predict")
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.headers["X-Task-ID"] == answer.json["task_id"] == Task.objects.get().pk
    assert Task.objects.get().error_info == answer.json["error"]


@pytest.mark.parametrize("status", [502, 504])
def test_a_prediction_that_may_have_run_is_not_sent_again(
    kserve: Callable[..., Server], stub: Stub, status: int
) -> None:
    web = kserve(answers({}, status=status))
    assert ask(web, "predict").status in (502, 504)
    assert stub.count(PREDICT) == 1


def test_a_queue_that_does_not_answer_is_a_503(serve: Serve) -> None:
    web = serve("web", REDIS_ADDRESS=f"127.0.0.1:{closed_port()}")
    for request in ("predict later", "queue size", "unfinished"):
        answer = ask(web, request)
        assert (answer.status, answer.json["code"]) == (503, "unavailable"), request


def test_a_record_service_that_does_not_answer_is_a_503(serve: Serve) -> None:
    web = serve("web", WEBHOOK_SERVER_ADDRESS=f"127.0.0.1:{closed_port()}", WEBHOOK_APIKEY=KEY)
    answer = ask(web, "predict")
    assert (answer.status, answer.json["code"]) == (503, "unavailable")


def test_callers_need_a_key_unless_anonymous_access_is_allowed(serve: Serve) -> None:
    closed = serve("web", ALLOW_ANONYMOUS="")
    with_keys = serve("web", API_KEYS="mine,yours")
    for web in (closed, with_keys):
        assert (ask(web, "predict").status, ask(web, "predict").json["code"]) == (401, "unauthorized")
    assert ask(with_keys, "predict", "apikey: yours").status == 200
    assert ask(with_keys, "predict", "Authorization: Bearer mine").status == 200


def test_an_unknown_route_and_a_wrong_method_are_answered_in_json(web: Server) -> None:
    nowhere = ask(web, "live", path="/nowhere")
    assert (nowhere.status, nowhere.json["code"]) == (404, "not_found")
    wrong = ask(web, "predict", path="/live")
    assert (wrong.status, wrong.json["code"], wrong.headers["Allow"]) == (
        405,
        "method_not_allowed",
        "GET, HEAD, OPTIONS",
    )


@pytest.mark.parametrize("name", ["predict", "predict later", "queue size", "live"])
def test_a_trailing_slash_is_no_redirect(web: Server, name: str) -> None:
    path = RECORDED[name].split()[1].decode()
    assert ask(web, name, path=f"{path}/").status == 200


def test_a_body_is_bounded(serve: Serve) -> None:
    web = serve("web", MAX_REQUEST_BODY="42")
    answer = ask(web, "predict")
    assert (answer.status, answer.json["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(("on_disconnect", "status"), [("cancel", "canceled"), ("finish", "succeeded")])
def test_the_prediction_of_a_caller_who_hangs_up(
    kserve: Callable[..., Server], stub: Stub, on_disconnect: str, status: str
) -> None:
    def answers_at_the_gate(visit: Any) -> None:
        visit.stub.gate.wait(20)
        answers({"predictions": [0]})(visit)

    web = kserve(answers_at_the_gate if status == "succeeded" else hangs, ON_DISCONNECT=on_disconnect)
    with socket.create_connection(("127.0.0.1", web.port)) as caller:
        caller.sendall(recorded(web, "predict"))
        until(lambda: stub.count(PREDICT))
    if status == "succeeded":
        time.sleep(2)  # longer than until a caller is noticed to be gone
        stub.gate.set()
    until(lambda: Task.objects.get().status == status)


@pytest.mark.parametrize(("outputs", "expected"), [("", [1]), ("plain", [1]), ("wrapped", {"output": [1]})])
@pytest.mark.parametrize("platform", ["replicate", "runpod"])
def test_outputs_of_platforms_with_jobs_are_plain_or_wrapped(
    serve: Serve, stub: Stub, platform: str, outputs: str, expected: Any
) -> None:
    job = {"id": "j", "status": "succeeded", "output": [1]}
    stub.script("POST /v1/predictions", answers(job, status=201))
    stub.script("POST /v2/e/run", answers({**job, "status": "COMPLETED"}))
    web = serve(
        "web",
        ML_PLATFORM=platform,
        PLATFORM_OUTPUTS=outputs,
        REPLICATE_ADDRESS=f"{stub.url}/v1/predictions",
        REPLICATE_APIKEY="k",
        REPLICATE_MODEL_ID="5c7d5dc6",
        RUNPOD_ADDRESS=f"{stub.url}/v2",
        RUNPOD_APIKEY="k",
        RUNPOD_MODEL_ID="e",
    )
    assert ask(web, "predict").json["outputs"] == expected


def test_outputs_may_be_any_json(kserve: Callable[..., Server]) -> None:
    assert ask(kserve(answers([1, "two", None])), "predict").json["outputs"] == [1, "two", None]


def test_the_running_time_in_outputs_becomes_the_tasks(kserve: Callable[..., Server]) -> None:
    task = ask(kserve(answers({"predictions": [0], "running_time": "0.5s"})), "predict").json
    assert (task["outputs"], task["running_time"]) == ({"predictions": [0]}, "0.500000s")


def test_a_model_is_given_an_upload_address_with_a_token_of_its_task(kserve: Callable[..., Server], stub: Stub) -> None:
    ask(kserve(answers({}), UPLOAD_WEBHOOK_ADDRESS="0.0.0.0:12000"), "predict")
    given = stub.calls(PREDICT)[0].json["upload_webhook"]
    assert re.fullmatch(rf"http://0\.0\.0\.0:12000/u/{Task.objects.get().pk}~[\w-]+/upload", given)


def test_a_model_may_upload_to_the_record_service_of_the_same_agent(
    kserve: Callable[..., Server], records: Server, stub: Stub
) -> None:
    web = kserve(hangs, UPLOAD_WEBHOOK_ADDRESS=f"127.0.0.1:{records.port}")
    with socket.create_connection(("127.0.0.1", web.port)) as caller:
        caller.sendall(recorded(web, "predict"))
        until(lambda: stub.count(PREDICT))
        path = stub.calls(PREDICT)[0].json["upload_webhook"].removeprefix(records.url)
        without_a_key = recorded(records, "upload", path=path).replace(f"apikey: {KEY}\r\n".encode(), b"")
        assert send(records, without_a_key).status == 200


# --- Its environments

AGENT = {
    "ENVIRONMENT": "development",
    "HTTP_SERVER_ADDRESS": "0.0.0.0:8000",
    "REDIS_ADDRESS": "0.0.0.0:6379",
    "REDIS_CLUSTER_MODE": "false",
    "USE_LOCAL_REDIS": "false",
    "SHUTDOWN_DELAY": "2",
    "ENABLE_PERIODIC_CHECK": "false",
    "WORKER_CONCURRENCY": "4",
    "MAX_QUEUE_SIZE": "30",
    "TASK_TYPE_NAME": "default",
    "TASK_TIMEOUT": "320",
    "MODEL_NAME": "",
    "ML_PLATFORM": "kserve",
    "WEBHOOK_SERVER_ADDRESS": "0.0.0.0:12000",
    "WEBHOOK_APIKEY": KEY,
    "UPLOAD_WEBHOOK_ADDRESS": "0.0.0.0:12000",
    "KSERVE_VERSION": "0.10.2",
    "KSERVE_ADDRESS": "0.0.0.0:8080",
    "KSERVE_CUSTOM_DOMAIN": "example.com",
    "KSERVE_NAMESPACE": "default",
    "KSERVE_REQUEST_TIMEOUT": "300",
    "REPLICATE_ADDRESS": "https://api.replicate.com/v1/predictions",
    "REPLICATE_APIKEY": "",
    "REPLICATE_MODEL_ID": "22c920af07cfd46d7540374b367953829c68167c395448c8e2a39597480a2d09",
    "REPLICATE_REQUEST_TIMEOUT": "300",
    "RUNPOD_ADDRESS": "https://api.runpod.ai/v2",
    "RUNPOD_APIKEY": "",
    "RUNPOD_MODEL_ID": "",
    "RUNPOD_REQUEST_TIMEOUT": "300",
    "K8SPLUGIN_ADDRESS": "0.0.0.0:8002",
    "K8SPLUGIN_REQUEST_TIMEOUT": "300",
}
"""The original's sample file."""

RECORD_SERVICE = {
    "HTTP_SERVER_ADDRESS": "0.0.0.0:12000",
    "REDIS_ADDRESS": "localhost:6379",
    "REDIS_CLUSTER_MODE": "false",
    "REDIS_KEY_DURATION": "48h",
    "SECRET_APIKEY": "",
    "DB_SOURCE": "postgresql://root:secret@localhost:5432/serving_webhook?sslmode=disable",
    "MIGRATION_URL": "file://db/migration",
    "AWS_REGION": "us-west-2",
    "AWS_BUCKET": "ywz-upload",
    "AWS_S3_USE_ACCELERATE": "false",
    "AWS_ACCESS_KEY_ID": "",
    "AWS_SECRET_ACCESS_KEY": "",
}
"""The sample file of its webhook service."""

SHOW = """
import json, os
import django
django.setup()
from django.conf import settings
print(json.dumps({name: settings.DATABASES["default"][name] if name in ("HOST", "NAME") else getattr(settings, name)
                  for name in os.environ["SHOW"].split()}, default=str))
"""


def manage(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs Python with only this environment and the variables Python needs."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "ENV_FILE": os.devnull, "DJANGO_SETTINGS_MODULE": "config.settings"}
        | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def warnings(**environment: str) -> set[str]:
    """The warnings of the start, by number; whatever would stop it fails the test."""
    checked = manage("manage.py", "check", **environment)
    assert checked.returncode == 0, checked.stderr
    return set(re.findall(r"\(agent\.(\w\d+)\)", checked.stderr))


def shown(*names: str, **environment: str) -> dict[str, Any]:
    done = manage("-c", SHOW, SHOW=" ".join(names), **environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_agents_sample_file_is_only_warned_of() -> None:
    assert warnings(**AGENT) == {"W003", "W005"}
    assert warnings(**AGENT, ALLOW_ANONYMOUS="true") == {"W003"}


def test_the_webhook_services_sample_file_is_only_warned_of() -> None:
    assert warnings(**RECORD_SERVICE, ROOT_URLCONF="webhooks.urls") == {"W004"}
    checked = manage("manage.py", "check", **RECORD_SERVICE, ROOT_URLCONF="webhooks.urls")
    for name in ("REDIS_KEY_DURATION", "MIGRATION_URL", "AWS_S3_USE_ACCELERATE"):
        assert f"{name} has no effect" in checked.stderr


def test_the_webhook_services_names_are_read() -> None:
    names = {**RECORD_SERVICE, "SECRET_APIKEY": KEY}
    assert shown("HOST", "NAME", "WEBHOOK_APIKEY", "AWS_BUCKET", **names) == {
        "HOST": "localhost",
        "NAME": "serving_webhook",
        "WEBHOOK_APIKEY": KEY,
        "AWS_BUCKET": "ywz-upload",
    }
    of_this_agent = {"DATABASE_URL": "postgres://u:p@here/mine", "WEBHOOK_APIKEY": "mine"}
    assert shown("HOST", "WEBHOOK_APIKEY", **names, **of_this_agent) == {"HOST": "here", "WEBHOOK_APIKEY": "mine"}


def test_the_word_empty_is_no_value_of_the_webhook_services_names() -> None:
    empty = dict.fromkeys(("DB_SOURCE", "SECRET_APIKEY", "AWS_BUCKET"), "empty")
    assert shown("WEBHOOK_APIKEY", "AWS_BUCKET", "DATABASE_CHOSEN", **empty) == {
        "WEBHOOK_APIKEY": "",
        "AWS_BUCKET": "",
        "DATABASE_CHOSEN": False,
    }


def test_the_sample_file_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "app.env").write_text("".join(f"{name}={value}\n" for name, value in AGENT.items()))
    assert shown("ML_PLATFORM", "KSERVE_REQUEST_TIMEOUT", ENV_FILE=str(tmp_path / "app.env")) == {
        "ML_PLATFORM": "kserve",
        "KSERVE_REQUEST_TIMEOUT": 300,
    }


def test_both_sample_files_together_run_a_prediction(serve: Serve, stub: Stub) -> None:
    """The only changes: addresses, the key, the database, and anonymous access."""
    records = serve("webhook", **{**RECORD_SERVICE, "SECRET_APIKEY": KEY, "WEBHOOK_APIKEY": "", "AWS_BUCKET": ""})
    stub.script(PREDICT, answers({"predictions": [0]}))
    here = {
        "REDIS_ADDRESS": settings.REDIS_ADDRESS,
        "KSERVE_ADDRESS": stub.address,
        "WEBHOOK_SERVER_ADDRESS": f"127.0.0.1:{records.port}",
        "UPLOAD_WEBHOOK_ADDRESS": f"127.0.0.1:{records.port}",
    }
    web, worker = (serve(process, **{**AGENT, **here}) for process in ("web", "worker"))
    assert ask(web, "predict").json["outputs"] == {"predictions": [0]}
    task_id = ask(web, "predict later").json["id"]
    until(lambda: ask(web, "read as a caller", task_id=task_id).json["status"] == "succeeded")
    assert "Traceback" not in web.output() + worker.output() + records.output()


def test_an_environment_of_another_name_is_refused() -> None:
    checked = manage("manage.py", "check", **{**AGENT, "ENVIRONMENT": "staging"})
    assert (checked.returncode, "ENVIRONMENT='staging'" in checked.stderr) == (1, True)


def test_production_asks_for_a_key_hosts_callers_and_a_database() -> None:
    checked = manage("manage.py", "check", **{**AGENT, "ENVIRONMENT": "production"})
    assert checked.returncode == 1
    for number in ("E020", "E021", "E022", "E024"):
        assert f"(agent.{number})" in checked.stderr


def test_defaults_of_fields_that_the_original_left_empty() -> None:
    defaults = {
        "ENVIRONMENT": "development",
        "HTTP_SERVER_ADDRESS": "0.0.0.0:8000",
        "WORKER_CONCURRENCY": 8,
        "MAX_QUEUE_SIZE": 30,
        "TASK_TIMEOUT": 320,
        "TASK_TYPE_NAME": "default",
        "SHUTDOWN_DELAY": 2.0,
        "ENABLE_PERIODIC_CHECK": True,
        "KSERVE_VERSION": "0.13.1",
        "KSERVE_NAMESPACE": "default",
        "KSERVE_CUSTOM_DOMAIN": "example.com",
        "KSERVE_REQUEST_TIMEOUT": 180.0,
        "K8SPLUGIN_REQUEST_TIMEOUT": 180.0,
        "REPLICATE_REQUEST_TIMEOUT": 180.0,
        "RUNPOD_REQUEST_TIMEOUT": 180.0,
        "ML_PLATFORM": "local",
    }
    assert shown(*defaults) == defaults
    page = (ROOT / "docs/from-the-original.md").read_text()
    (row,) = re.findall(r"^\|.*defaults.*\|$", page, re.MULTILINE)
    told = dict(re.findall(r"`(\w+)=([^`]+)`", row))
    assert len(told) > 10
    assert told == {name: re.sub(r"\.0$", "", str(defaults[name]).lower()) for name in told}


@pytest.mark.parametrize(("version", "route"), [("0.9.0", "generate"), ("0.10.2", "generate"), ("0.11.0", "predict")])
def test_versions_of_kserve_are_compared_as_numbers(
    kserve: Callable[..., Server], stub: Stub, version: str, route: str
) -> None:
    stub.script("POST /v1/models/iris:generate", streams(b'{"id": 0, "data": "to"}\n'))
    web = kserve(streams(b'{"id": 0, "data": "to"}\n'), KSERVE_VERSION=version)
    assert ask(web, "generate").status == 200
    assert stub.count(f"POST /v1/models/iris:{route}") == 1


def test_the_older_name_of_the_kubernetes_platform_is_taken() -> None:
    assert shown("ML_PLATFORM", **{**AGENT, "ML_PLATFORM": "k8s-plugin"}) == {"ML_PLATFORM": "k8s"}


def test_agents_with_different_type_names_have_queues_of_their_own(serve: Serve) -> None:
    one, other = serve("web", TASK_TYPE_NAME="one"), serve("web", TASK_TYPE_NAME="other")
    ask(one, "predict later")
    assert (ask(one, "queue size").json["queue_size"], ask(other, "queue size").json["queue_size"]) == (1, 0)
