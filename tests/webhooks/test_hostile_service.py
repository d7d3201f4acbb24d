"""A record service that answers to do harm: the step fails in bounded time and memory, and the next one is served."""

import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rest_framework.test import APIClient

from predictions.models import Task
from predictions.recorder import get_recorder
from tests.helpers.hostile_answers import DEEP, HOSTILE
from tests.helpers.stub import Step, Stub, answers, drips, head, pours, says, sends
from webhooks import client as record_client

BODY = {"model_name": "m", "inputs": {"answer": 1}}


@pytest.fixture
def service(configured: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    stub = Stub()
    get_recorder.cache_clear()
    configured(
        WEBHOOK_SERVER_ADDRESS=stub.address,
        TASK_RECORDER="webhooks.client.HttpRecorder",
        WEBHOOK_APIKEY="key",
        MAX_RESPONSE_BODY=1_000_000,
    )
    monkeypatch.setattr(record_client, "FIRST_WAIT_SECONDS", 0.001)
    yield stub
    stub.close()
    get_recorder.cache_clear()


TAKES = answers({"id": "x"})
MORE_HOSTILE: dict[str, Step] = {
    **HOSTILE,
    "no JSON": says(b"<html>"),
    "nothing": says(b""),
    "an array": says(b"[1]"),
    "a deep id": says(b'{"id": ' + DEEP + b"}"),
    "a redirect to itself": sends(head(307, {"Location": "/task", "Content-Length": "0"})),
}


@pytest.mark.parametrize("how", MORE_HOSTILE)
def test_a_hostile_answer_is_no_record(service: Stub, client: APIClient, how: str) -> None:
    service.script("POST /task", MORE_HOSTILE[how])
    service.script("PUT /task", TAKES)
    response = client.post("/v1/predict", BODY, format="json")
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    assert Task.objects.get().status == "failed"
    service.script("POST /task", TAKES)
    assert client.post("/v1/predict", BODY, format="json").status_code == 200


def test_an_answer_without_end_is_not_waited_for(
    service: Stub, client: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_client, "TRIES", 1)
    monkeypatch.setattr(record_client, "TIMEOUT_SECONDS", 0.3)
    service.script("PUT /task", TAKES)
    for step in (drips(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{", b" "), drips(b"", b"H")):
        service.script("POST /task", step)
        assert client.post("/v1/predict", BODY, format="json").status_code == 503


@pytest.mark.parametrize("status", [200, 302, 500])
def test_an_answer_of_200_mb_is_not_held_in_memory(service: Stub, client: APIClient, status: int) -> None:
    service.script("POST /task", pours(200_000_000, status=status))
    service.script("PUT /task", TAKES)
    tracemalloc.start()
    try:
        assert client.post("/v1/predict", BODY, format="json").status_code == 503
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["ann", "Ω🙂", "\u00a0nbsp", "a\u0085b", "x" * 300])
def test_a_users_name_reaches_the_service_as_it_is(service: Stub, client: APIClient, name: str) -> None:
    service.script("POST /task", TAKES)
    service.script("PUT /task", TAKES)
    headers: Any = {"UID": name.encode().decode("latin-1")}
    assert client.post("/v1/predict", BODY, format="json", headers=headers).status_code == 200
    sent = service.received[0].headers
    assert sent["uid"].encode("latin-1").decode() == name[:200]
    assert sent.keys() <= {"host", "accept-encoding", "content-type", "content-length", "apikey", "uid", "user-agent"}
