"""Whatever callers send and platforms answer: requests go to the configured address, and the key nowhere else."""

import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from platforms import InvalidInputs, PlatformError, Prediction
from tests.helpers.makers import KEY, REPLICATE, RUNPOD, call, k8s, kserve, replicate, runpod
from tests.helpers.stub import Stub, answers

PIECES = [
    *(
        "/",
        "..",
        "../",
        "//",
        "\\",
        "?",
        "#",
        "&",
        "=",
        ";",
        "@",
        ":",
        ":80",
        "%2f",
        "%2e%2e",
        "%0d%0a",
        "%00",
        " ",
        "\t",
    ),
    *("\r\nHost: evil.example\r\n", "\n", "\r", "\0", "\x7f", "[::1]", "127.0.0.1", "169.254.169.254", "localhost"),
    *("evil.example", "@evil.example", "http://evil.example/", "//evil.example", "file:///etc/passwd", "gopher:"),
    *(
        "．",
        "。",
        "｡",
        "／",
        "：",
        "＠",
        "ⓔⓥⓘⓛ",
        "\u2028",
        "\u202e",
        "ü",
        "\ud800",
        "{model}",
        "{0}",
        "%s",
        "${x}",
        "iris",
    ),
    *(":predict", ":generate", "models", "v1", "-", "_", "."),
]
hostile_text = some.one_of(
    some.text(max_size=60), some.lists(some.sampled_from(PIECES), max_size=5).map("".join), some.sampled_from(PIECES)
)
json_values = some.recursive(
    some.one_of(
        some.none(), some.booleans(), some.integers(), some.floats(allow_nan=False, allow_infinity=False), hostile_text
    ),
    lambda inner: some.one_of(some.lists(inner, max_size=3), some.dictionaries(hostile_text, inner, max_size=3)),
    max_leaves=8,
)
inputs_of_callers = some.dictionaries(
    some.one_of(hostile_text, some.sampled_from(["upload_webhook", "Host", "url"])), json_values, max_size=4
)
hostile_urls = some.one_of(
    hostile_text,
    some.tuples(some.sampled_from(["http", "https", "HTTP", "ftp", ""]), hostile_text, hostile_text).map(
        lambda parts: f"{parts[0]}://{parts[1]}/{parts[2]}"
    ),
    some.none(),
    json_values,
)
predictions = some.builds(
    Prediction, hostile_text, inputs_of_callers, hostile_text, some.just("http://agent:8000/u/token/upload")
)
property_of = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
SENT_TO_ALL = {"host", "accept", "accept-encoding", "user-agent", "content-type", "content-length", "x-request-id"}
LABEL = re.compile(r"[A-Za-z0-9_-]+")


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int]]]:
    """Every address to which a connection is made, noted before it is."""
    found: list[tuple[str, int]] = []
    look_up = socket.getaddrinfo

    def noting(host: str, port: int, *args: Any, **options: Any) -> Any:
        found.append((host, port))
        assert host == "127.0.0.1", f"it would have connected to {host}"
        return look_up(host, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", noting)
    yield found
    assert found
    assert set(found) <= {("127.0.0.1", port) for _, port in found[:1]}


@given(prediction=predictions, request_id=hostile_text)
@property_of
def test_requests_to_kserve_keep_to_one_path_and_one_host(
    stub: Stub, reached: Any, prediction: Prediction, request_id: str
) -> None:
    stub.received.clear()
    stub.script(f"POST /v1/models/{prediction.model_name}:predict", answers({}))
    platform = kserve(stub.address)
    try:
        platform.predict(prediction, call(request_id=request_id))
    except InvalidInputs:
        assert not LABEL.fullmatch(prediction.model_name) or not stub.received
    for sent in stub.received:
        assert sent.method == "POST"
        assert LABEL.fullmatch(prediction.model_name)
        assert sent.path == f"/v1/models/{prediction.model_name}:predict"
        assert sent.headers["host"] == f"{prediction.model_name}.default.example.com"
        assert sent.headers.keys() <= SENT_TO_ALL
        assert sent.json == {**as_json(prediction.inputs_alone()), "upload_webhook": prediction.upload_webhook}


@given(model_name=hostile_text)
@property_of
def test_requests_for_kserves_docs_keep_to_one_path_and_one_host(stub: Stub, reached: Any, model_name: str) -> None:
    stub.received.clear()
    platform = kserve(stub.address)
    with pytest.raises(PlatformError):
        platform.docs(model_name, call())
    for sent in stub.received:
        assert LABEL.fullmatch(model_name)
        assert (sent.path, sent.headers["host"]) == (f"/v1/docs/{model_name}", f"{model_name}.default.example.com")


@given(prediction=predictions, request_id=hostile_text)
@property_of
def test_a_plain_service_gets_the_model_only_in_the_body(
    stub: Stub, reached: Any, prediction: Prediction, request_id: str
) -> None:
    stub.received.clear()
    stub.script("POST /v1/predict", answers({}))
    stub.script("GET /v1/docs", answers({}))
    platform = k8s(stub.address)
    platform.predict(prediction, call(request_id=request_id))
    platform.docs(prediction.model_name, call(request_id=request_id))
    for sent, path in zip(stub.received, ("/v1/predict", "/v1/docs"), strict=True):
        assert (sent.path, sent.headers["host"]) == (path, stub.address)
        assert sent.headers.keys() <= SENT_TO_ALL
        assert sent.json["model_name"] == prediction.model_name
    assert stub.received[0].json["inputs"]["upload_webhook"] == prediction.upload_webhook


@pytest.mark.parametrize("cloud", [REPLICATE, RUNPOD], ids=["replicate", "runpod"])
@given(prediction=predictions, request_id=hostile_text)
@property_of
def test_a_paid_platform_runs_the_configured_model_whatever_the_caller_names(
    cloud: Any, stub: Stub, reached: Any, prediction: Prediction, request_id: str
) -> None:
    stub.received.clear()
    stub.script(cloud.submit, cloud.job("succeeded", output="x"))
    stub.script(cloud.status, cloud.job("succeeded", output="x"))
    cloud.make(stub.address).predict(prediction, call(request_id=request_id))
    first = stub.received[0]
    assert {f"{sent.method} {sent.path}" for sent in stub.received} <= {cloud.submit, cloud.status}
    assert {sent.headers["host"] for sent in stub.received} == {stub.address}
    assert first.headers.keys() <= SENT_TO_ALL | {"authorization"}
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert first.json["input"] == as_json(prediction.inputs_alone())
    assert first.json.keys() <= {"input", "version"}


@given(get=hostile_urls, cancel=hostile_urls, stream=hostile_urls)
@property_of
def test_the_urls_of_an_answer_lead_to_the_configured_address_alone(
    stub: Stub, reached: Any, get: Any, cancel: Any, stream: Any
) -> None:
    stub.received.clear()
    urls = {"get": get, "cancel": cancel, "stream": stream}
    stub.script(REPLICATE.submit, REPLICATE.job("waiting", urls=urls))
    stub.script(REPLICATE.status, REPLICATE.job("failed", error="x"))
    platform = replicate(stub.address, timeout=0.3)
    for ask in (platform.predict, lambda *told: list(platform.stream(*told))):
        with pytest.raises(PlatformError):
            ask(Prediction("m", {}), call())
    assert {sent.headers["host"] for sent in stub.received} == {stub.address}


@given(job_id=some.one_of(hostile_text, json_values))
@property_of
def test_the_id_of_a_job_leads_nowhere_else(stub: Stub, reached: Any, job_id: Any) -> None:
    stub.received.clear()
    stub.script(RUNPOD.submit, answers({"id": job_id, "status": "IN_QUEUE"}))
    platform = runpod(stub.address, timeout=0.3)
    with pytest.raises(PlatformError):
        platform.predict(Prediction("m", {}), call())
    for sent in stub.received:
        assert re.fullmatch(r"/v2/ep1/(run|(status|cancel)/[A-Za-z0-9][A-Za-z0-9_.-]*)", sent.path)


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))
