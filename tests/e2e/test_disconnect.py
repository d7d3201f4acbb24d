"""Callers who hang up, on every platform: what becomes of their predictions, with each value of ON_DISCONNECT."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from predictions.models import Task
from tests.helpers.servers import Server
from tests.helpers.stub import Step, Stub, Visit, answers, chunked, hangs, head
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

Serve = Callable[..., Server]


@dataclass(frozen=True)
class Platform:
    """The settings for a stub, the stub's answers, and the call that ends a prediction there."""

    environment: Callable[[Stub], dict[str, str]]
    routes: dict[str, Step]
    ended_by: str = ""
    """The route that cancels a job; empty where the connection is closed."""
    asked_at: str = ""
    """The route that the agent requests while the prediction runs."""
    inputs: dict[str, object] = field(default_factory=dict)


REPLICATE_JOB = {"id": "job-1", "status": "processing"}
RUNPOD_JOB = {"id": "job-1", "status": "IN_PROGRESS"}
PLATFORMS = {
    "kserve": Platform(
        lambda stub: {"KSERVE_ADDRESS": stub.address},
        {"POST /v1/models/m:predict": hangs},
        asked_at="POST /v1/models/m:predict",
    ),
    "k8s": Platform(
        lambda stub: {"K8SPLUGIN_ADDRESS": stub.address}, {"POST /v1/predict": hangs}, asked_at="POST /v1/predict"
    ),
    "replicate": Platform(
        lambda stub: {
            "REPLICATE_ADDRESS": f"{stub.url}/v1/predictions",
            "REPLICATE_APIKEY": "key",
            "REPLICATE_MODEL_ID": "5c7d5dc6",
        },
        {
            "POST /v1/predictions": answers(REPLICATE_JOB),
            "GET /v1/predictions/job-1": answers(REPLICATE_JOB),
            "POST /v1/predictions/job-1/cancel": answers({**REPLICATE_JOB, "status": "canceled"}),
        },
        ended_by="POST /v1/predictions/job-1/cancel",
        asked_at="GET /v1/predictions/job-1",
    ),
    "runpod": Platform(
        lambda stub: {"RUNPOD_ADDRESS": f"{stub.url}/v2", "RUNPOD_APIKEY": "key", "RUNPOD_MODEL_ID": "e"},
        {
            "POST /v2/e/run": answers(RUNPOD_JOB),
            "GET /v2/e/status/job-1": answers(RUNPOD_JOB),
            "POST /v2/e/cancel/job-1": answers({**RUNPOD_JOB, "status": "CANCELLED"}),
        },
        ended_by="POST /v2/e/cancel/job-1",
        asked_at="GET /v2/e/status/job-1",
    ),
}


@pytest.fixture
def stub() -> Iterator[Stub]:
    server = Stub()
    yield server
    server.close()


def ask(web: Server, route: str, inputs: dict[str, object] | None = None) -> socket.socket:
    """A caller that has sent its request and waits."""
    body = json.dumps({"model_name": "m", "inputs": inputs or {}})
    caller = socket.create_connection(("127.0.0.1", web.port))
    caller.sendall(
        f"POST {route} HTTP/1.1\r\nHost: agent\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    return caller


def hangs_up(caller: socket.socket) -> None:
    caller.close()


def closes_its_sending_half(caller: socket.socket) -> None:
    caller.shutdown(socket.SHUT_WR)


WAYS = [hangs_up, closes_its_sending_half]


@pytest.mark.parametrize("leaves", WAYS)
@pytest.mark.parametrize("name", PLATFORMS)
def test_the_prediction_of_a_caller_who_leaves_is_ended_on_the_platform(
    serve: Serve, stub: Stub, name: str, leaves: Callable[[socket.socket], None]
) -> None:
    platform = PLATFORMS[name]
    for route, step in platform.routes.items():
        stub.script(route, step)
    web = serve("web", ML_PLATFORM=name, **platform.environment(stub))
    caller = ask(web, "/v1/predict")
    until(lambda: stub.count(platform.asked_at))
    left_at = time.monotonic()
    leaves(caller)
    if platform.ended_by:
        until(lambda: stub.count(platform.ended_by))
    else:
        assert stub.hung_up.wait(30)
    print(f"\n{name}: ended there {time.monotonic() - left_at:.1f} s after the caller left")
    until(lambda: Task.objects.get().status == "canceled")
    assert stub.count(platform.asked_at.replace("GET", "POST")) <= 1
    if platform.ended_by:
        until(lambda: Task.objects.get().upstream_cancel == "canceled")
    assert "Traceback" not in web.output()
    caller.close()


@pytest.mark.parametrize("leaves", WAYS)
def test_a_local_prediction_of_a_caller_who_leaves_is_canceled(
    serve: Serve, leaves: Callable[[socket.socket], None]
) -> None:
    web = serve("web", ML_PLATFORM="local", LOCAL_PREDICTOR="tests.helpers.predictors:predict")
    caller = ask(web, "/v1/predict", {"sleep": 60})
    until(lambda: Task.objects.filter(status="running").exists())
    leaves(caller)
    until(lambda: Task.objects.get().status == "canceled")
    caller.close()


def test_a_caller_who_waits_is_not_taken_for_one_who_left(serve: Serve, stub: Stub) -> None:
    """Though nothing comes from it for longer than between two looks."""

    def answers_late(visit: Visit) -> None:
        visit.stub.stopped.wait(2)
        answers({"y": 1})(visit)

    stub.script("POST /v1/predict", answers_late)
    web = serve("web", ML_PLATFORM="k8s", K8SPLUGIN_ADDRESS=stub.address)
    with ask(web, "/v1/predict") as caller:
        assert caller.recv(65536).startswith(b"HTTP/1.1 200 OK")
    assert Task.objects.get().status == "succeeded"


def answers_at_the_gate(visit: Visit) -> None:
    visit.read_body()
    assert visit.stub.gate.wait(30)
    answers({"y": 1})(visit)


@pytest.mark.parametrize("leaves", WAYS)
def test_with_finish_the_prediction_of_a_caller_who_leaves_runs_to_its_end(
    serve: Serve, stub: Stub, leaves: Callable[[socket.socket], None]
) -> None:
    stub.script("POST /v1/predict", answers_at_the_gate)
    web = serve("web", ML_PLATFORM="k8s", K8SPLUGIN_ADDRESS=stub.address, ON_DISCONNECT="finish")
    caller = ask(web, "/v1/predict")
    until(lambda: stub.count("POST /v1/predict"))
    leaves(caller)
    time.sleep(2)  # several looks
    assert Task.objects.get().status == "running"
    stub.gate.set()
    until(lambda: Task.objects.get().status == "succeeded")
    assert Task.objects.get().outputs == {"y": 1}
    caller.close()


def piece(number: int) -> bytes:
    return chunked(json.dumps({"id": number, "data": f"tok{number} "}).encode() + b"\n")


def streams_one_and_waits(visit: Visit) -> None:
    visit.read_body()
    visit.send(head(200, {"Transfer-Encoding": "chunked"}) + piece(0))
    visit.wait_until_hung_up()


def streams_one_and_the_rest_at_the_gate(visit: Visit) -> None:
    visit.read_body()
    visit.send(head(200, {"Transfer-Encoding": "chunked"}) + piece(0))
    assert visit.stub.gate.wait(30)
    for number in range(1, 50):
        visit.send(piece(number))
        time.sleep(0.01)
    visit.send(b"0\r\n\r\n")


def sends_one_event_and_waits(visit: Visit) -> None:
    visit.send(head(200, {"Transfer-Encoding": "chunked", "Content-Type": "text/event-stream"}))
    visit.send(chunked(b"event: output\nid: 1\ndata: tok0\n\n"))
    visit.wait_until_hung_up()


def streaming_routes(name: str, stub: Stub) -> dict[str, Step]:
    """The stub's answer to a stream: one piece, and then silence."""
    one = {**RUNPOD_JOB, "stream": [{"output": "tok0"}]}
    return {
        "kserve": {"POST /v1/models/m:predict": streams_one_and_waits},
        "replicate": {
            "POST /v1/predictions": answers({**REPLICATE_JOB, "urls": {"stream": f"{stub.url}/stream"}}),
            "GET /stream": sends_one_event_and_waits,
        },
        "runpod": {"GET /v2/e/stream/job-1": answers_in_turn(answers(one), answers({**RUNPOD_JOB, "stream": []}))},
    }[name]


def answers_in_turn(first: Step, later: Step) -> Step:
    steps = iter([first])
    return lambda visit: next(steps, later)(visit)


@pytest.mark.parametrize("leaves", WAYS)
@pytest.mark.parametrize("name", ["kserve", "replicate", "runpod"])
def test_the_stream_of_a_caller_who_leaves_is_ended_on_the_platform(
    serve: Serve, stub: Stub, name: str, leaves: Callable[[socket.socket], None]
) -> None:
    platform = PLATFORMS[name]
    for route, step in {**platform.routes, **streaming_routes(name, stub)}.items():
        stub.script(route, step)
    web = serve("web", ML_PLATFORM=name, **platform.environment(stub))
    caller = ask(web, "/v1/generate")
    assert b"tok0" in read_until(caller, b"tok0")
    leaves(caller)
    if platform.ended_by:
        until(lambda: stub.count(platform.ended_by))
    else:
        assert stub.hung_up.wait(30)
    until(lambda: Task.objects.get().status == "canceled")
    caller.close()


@pytest.mark.parametrize("leaves", WAYS)
def test_with_finish_the_stream_of_a_caller_who_leaves_is_read_to_its_end(
    serve: Serve, stub: Stub, leaves: Callable[[socket.socket], None]
) -> None:
    stub.script("POST /v1/models/m:predict", streams_one_and_the_rest_at_the_gate)
    web = serve("web", ML_PLATFORM="kserve", KSERVE_ADDRESS=stub.address, ON_DISCONNECT="finish")
    caller = ask(web, "/v1/generate")
    assert b"tok0" in read_until(caller, b"tok0")
    leaves(caller)
    time.sleep(2)  # several looks
    assert Task.objects.get().status == "running"
    stub.gate.set()
    until(lambda: Task.objects.get().status == "succeeded")
    assert Task.objects.get().outputs == "".join(f"tok{number} " for number in range(50))
    assert not stub.hung_up.is_set()
    assert "Traceback" not in web.output()
    caller.close()


def test_with_finish_an_abandoned_stream_can_still_be_canceled(serve: Serve, stub: Stub) -> None:
    stub.script("POST /v1/models/m:predict", streams_one_and_waits)
    web = serve("web", ML_PLATFORM="kserve", KSERVE_ADDRESS=stub.address, ON_DISCONNECT="finish")
    caller = ask(web, "/v1/generate")
    read_until(caller, b"tok0")
    caller.close()
    with ask(web, f"/cancel/{Task.objects.get().pk}") as operator:
        assert operator.recv(65536).startswith(b"HTTP/1.1 202")
    assert stub.hung_up.wait(30)
    until(lambda: Task.objects.get().status == "canceled")
    assert "Traceback" not in web.output()


def read_until(caller: socket.socket, what: bytes) -> bytes:
    data = b""
    while what not in data:
        data += (came := caller.recv(65536))
        assert came, data
    return data
