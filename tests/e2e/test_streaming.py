"""Streams through the real web server: prompt pieces, broken ones, callers that leave, two hundred at once."""

import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from predictions.models import Task
from tests.helpers.servers import Server
from tests.helpers.stub import Stub, Visit, chunked, hangs, head, streams
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

ROUTE = "POST /v1/models/m:predict"
BODY = {"model_name": "m", "inputs": {"prompt": "hello"}}


def line(number: int, data: str = "") -> bytes:
    return json.dumps({"id": number, "data": data or f"tok{number}"}).encode() + b"\n"


@pytest.fixture
def stub() -> Iterator[Stub]:
    server = Stub()
    yield server
    server.close()


@pytest.fixture
def web(serve: Callable[..., Server], stub: Stub) -> Server:
    return serve("web", ML_PLATFORM="kserve", KSERVE_ADDRESS=stub.address)


def generate(web: Server, **headers: str) -> requests.Response:
    return requests.post(f"{web.url}/v1/generate", json=BODY, headers=headers, stream=True, timeout=30)


def test_lines_of_json(web: Server, stub: Stub) -> None:
    stub.script(ROUTE, streams(line(0), line(1, "é\n"), line(2)))
    response = generate(web)
    assert (response.status_code, response.headers["Content-Type"]) == (200, "application/x-ndjson")
    messages = [json.loads(text) for text in response.iter_lines()]
    assert messages == [{"id": 0, "data": "tok0"}, {"id": 1, "data": "é\n"}, {"id": 2, "data": "tok2"}]
    task = Task.objects.get(pk=response.headers["X-Task-ID"])
    assert (task.status, task.outputs) == ("succeeded", "tok0é\ntok2")
    assert "upload_webhook" in stub.calls(ROUTE)[0].json


def test_server_sent_events(web: Server, stub: Stub) -> None:
    stub.script(ROUTE, streams(line(0), line(1, "two\nlines")))
    response = generate(web, Accept="text/event-stream")
    assert response.headers["Content-Type"] == "text/event-stream"
    assert response.text == "id: 0\ndata: tok0\n\nid: 1\ndata: two\ndata: lines\n\nid: 2\nevent: done\ndata: \n\n"


def test_each_piece_is_on_its_way_before_the_next_one_comes(web: Server, stub: Stub) -> None:
    """The model sends a piece only after the caller has read the one before."""
    sent: list[float] = []
    read = threading.Semaphore(0)

    def one_by_one(visit: Visit) -> None:
        visit.read_body()
        visit.send(head(200, {"Transfer-Encoding": "chunked"}))
        for number in range(50):
            sent.append(time.perf_counter())
            visit.send(chunked(line(number)))
            assert read.acquire(timeout=20)
        visit.send(b"0\r\n\r\n")

    stub.script(ROUTE, one_by_one)
    delays = []
    for number, text in enumerate(generate(web).iter_lines(chunk_size=1)):
        delays.append(time.perf_counter() - sent[number])
        assert json.loads(text)["id"] == number
        read.release()
    assert len(delays) == 50
    print(f"\na piece takes {statistics.median(delays) * 1000:.1f} ms, the slowest {max(delays) * 1000:.1f} ms")


def test_the_tasks_outputs_are_the_first_million_characters(web: Server, stub: Stub) -> None:
    piece = "ab" * 200_000
    stub.script(ROUTE, streams(*(line(number, piece) for number in range(3))))
    assert [len(json.loads(text)["data"]) for text in generate(web).iter_lines()] == [400_000] * 3
    assert Task.objects.get().outputs == (piece * 3)[:1_000_000]


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
def test_a_stream_that_breaks_off_says_so_in_its_last_message(web: Server, stub: Stub, accept: str) -> None:
    stub.script(ROUTE, streams(line(0), ends=False))
    response = generate(web, Accept=accept)
    text = response.text
    assert response.status_code == 200
    last = text.strip().splitlines()[-1].removeprefix("data: ")
    assert (json.loads(last)["code"], json.loads(last)["id"]) == ("platform_error", 1)
    assert ("event: error" in text) == (accept == "text/event-stream")
    assert Task.objects.get().status == "failed"
    assert Task.objects.get().error_info


def test_what_fails_before_the_first_piece_is_an_ordinary_error(web: Server, stub: Stub) -> None:
    response = generate(web)  # the stub has no such route: 418
    assert (response.status_code, response.json()["code"]) == (502, "platform_error")
    assert Task.objects.get().status == "failed"


@pytest.mark.parametrize("pieces", [0, 1])
def test_a_caller_who_leaves_ends_the_models_side_too(web: Server, stub: Stub, pieces: int) -> None:
    stub.script(ROUTE, _sends_and_waits(pieces))
    session = requests.Session()
    if pieces:
        response = session.post(f"{web.url}/v1/generate", json=BODY, stream=True, timeout=30)
        next(response.iter_lines(chunk_size=1))
        response.close()
    else:
        with pytest.raises(requests.RequestException):
            session.post(f"{web.url}/v1/generate", json=BODY, timeout=1)
    left_at = time.perf_counter()
    session.close()
    assert stub.hung_up.wait(20)
    print(f"\nthe model's side was closed {time.perf_counter() - left_at:.1f} s after the caller left")
    until(lambda: Task.objects.get().status == "canceled")


def _sends_and_waits(pieces: int) -> Callable[[Visit], None]:
    def step(visit: Visit) -> None:
        if not pieces:
            hangs(visit)
        visit.read_body()
        visit.send(head(200, {"Transfer-Encoding": "chunked"}))
        visit.send(chunked(line(0)))
        visit.wait_until_hung_up()

    return step


def test_a_stream_can_be_canceled(web: Server, stub: Stub) -> None:
    stub.script(ROUTE, _sends_and_waits(1))
    response = generate(web)
    lines = response.iter_lines(chunk_size=1)
    next(lines)
    assert requests.post(f"{web.url}/cancel/{response.headers['X-Task-ID']}", timeout=30).status_code == 202
    assert json.loads(next(lines))["code"] == "canceled"
    assert stub.hung_up.wait(20)
    assert Task.objects.get().status == "canceled"


def test_200_streams_at_once_in_one_process(web: Server, stub: Stub) -> None:
    stub.script(ROUTE, streams(line(0), b"", line(1)))
    with ThreadPoolExecutor(200) as pool:
        answers = [pool.submit(lambda: generate(web).text) for _ in range(200)]
        until(lambda: stub.count(ROUTE) == 200)
        assert requests.get(f"{web.url}/live", timeout=30).status_code == 200
        stub.gate.set()
        texts = {answer.result() for answer in answers}
    assert len(texts) == 1
    until(lambda: Task.objects.filter(status="succeeded").count() == 200)


def test_a_platform_that_cannot_stream(serve: Callable[..., Server]) -> None:
    response = generate(serve("web"))
    assert (response.status_code, response.json()["code"]) == (400, "unsupported")
    assert Task.objects.get().status == "failed"


def test_docs_are_passed_through(web: Server, stub: Stub) -> None:
    from tests.helpers.stub import answers, says

    stub.script("GET /v1/docs/m", answers({"prompt": {"type": "str"}}))
    for asked in ({"params": {"model_name": "m"}}, {"json": {"model_name": "m"}}):
        answer = requests.get(f"{web.url}/v1/docs", timeout=30, **asked)  # type: ignore[arg-type]
        assert (answer.status_code, answer.json()) == (200, {"prompt": {"type": "str"}})
    assert requests.get(f"{web.url}/v1/docs", timeout=30).json()["field"] == "model_name"
    stub.script("GET /v1/docs/m", answers({"detail": "Not Found"}, status=404))
    missing = requests.get(f"{web.url}/v1/docs", params={"model_name": "m"}, timeout=30)
    assert (missing.status_code, missing.json()["code"]) == (400, "unsupported")
    stub.script("GET /v1/docs/m", says(b"<html>", content_type="text/html"))
    page = requests.get(f"{web.url}/v1/docs", params={"model_name": "m"}, timeout=30)
    assert (page.status_code, page.json()["code"]) == (502, "platform_error")
