"""Replicate only: forms of a model id, URLs that get the key, server-sent events."""

import json
from typing import Any

import pytest

from platforms import CallStopped, Chunk, InvalidInputs, PlatformError, PlatformTimeout, StopReason, Unsupported
from platforms.replicate import Replicate, events
from tests.helpers.makers import FLOWER, JOB, KEY, REPLICATE, VERSION, call, replicate
from tests.helpers.stub import Step, Stub, answers, drips, head, later, says, streams, streams_until_hung_up

ALMOST_URLS: list[object] = [None, [], "x", {}, {"get": None}]
STREAM = f"GET /v1/streams/{JOB}"


def event(name: str, data: str = "", number: int = 0) -> bytes:
    return f"event: {name}\nid: 169:{number}\n".encode() + b"".join(
        f"data: {line}\n".encode() for line in data.split("\n")
    ) + b"\n"  # fmt: skip


def script_stream(stub: Stub, *steps: Step, url: str | None = None) -> None:
    """A job whose stream is at `url`, on the stub itself unless told otherwise."""
    urls = {"stream": url or f"{stub.url}/v1/streams/{JOB}"}
    REPLICATE.script(stub, REPLICATE.job("running"))
    stub.script(REPLICATE.submit, REPLICATE.job("waiting", urls=urls))
    stub.script(STREAM, *steps)


def sse(*pieces: bytes, ends: bool = True) -> Step:
    return streams(*pieces, content_type="text/event-stream", ends=ends)


@pytest.mark.parametrize(
    ("model", "path", "body"),
    [
        (VERSION, "/v1/predictions", {"version": VERSION}),
        (f"owner/name:{VERSION}", "/v1/predictions", {"version": VERSION}),
        ("owner/na-me.2", "/v1/models/owner/na-me.2/predictions", {}),
    ],
)
def test_each_form_of_a_model_id_is_sent_where_it_belongs(stub: Stub, model: str, path: str, body: Any) -> None:
    REPLICATE.script(stub, REPLICATE.job("succeeded"))
    stub.script(f"POST {path}", REPLICATE.job("waiting"))
    replicate(stub.address, model=model).predict(FLOWER, call())
    assert stub.received[0].path == path
    assert stub.received[0].json == {**body, "input": dict(FLOWER.inputs)}


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({"metrics": {"predict_time": 0.25}}, 0.25),
        ({"metrics": {"predict_time": 0.25}, "output": {"running_time": "9s"}}, 0.25),
        ({"metrics": {}}, None),
        ({"metrics": None}, None),
        ({"metrics": {"predict_time": "quick"}}, None),
        ({}, None),
        ({"output": {"running_time": "9s"}}, 9.0),
    ],
)
def test_the_running_time_is_the_predict_time(stub: Stub, fields: dict[str, Any], seconds: float | None) -> None:
    REPLICATE.script(stub, REPLICATE.job("succeeded", **fields))
    assert replicate(stub.address).predict(FLOWER, call()).running_time == seconds


def test_a_job_that_was_aborted_has_ended(stub: Stub) -> None:
    REPLICATE.script(stub, answers({"id": JOB, "status": "aborted", "error": None}))
    with pytest.raises(PlatformError, match="was canceled on the replicate platform"):
        replicate(stub.address).predict(FLOWER, call())


def test_the_urls_of_the_answer_are_used_when_they_are_the_platforms_own(stub: Stub) -> None:
    urls = {"get": f"{stub.url}/v2/here?x=1#y", "cancel": f"{stub.url}/v2/stop"}
    stub.script(REPLICATE.submit, REPLICATE.job("waiting", urls=urls))
    stub.script("GET /v2/here?x=1", REPLICATE.job("running", urls={"get": f"{stub.url}/v3/other"}))
    stub.script("POST /v2/stop", REPLICATE.job("canceled"))
    with pytest.raises(PlatformTimeout):
        replicate(stub.address, timeout=0.2).predict(FLOWER, call())
    assert {one.path for one in stub.received[1:]} == {"/v2/here?x=1", "/v2/stop"}


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{other}/v1/predictions/job-1",
        "http://localhost:{port}/v1/predictions/job-1",
        "https://127.0.0.1:{port}/v1/predictions/job-1",
        "http://127.0.0.1:{port}@127.0.0.1:{other}/v1",
        "http://127.0.0.1:{other}\\@127.0.0.1:{port}/../",
        "http://127.0.0.1:99999999/",
        "file:///etc/passwd",
        "//127.0.0.1:{other}/v1",
        "/v1/predictions/job-1",
        "",
        None,
        7,
        ["http://127.0.0.1:{other}/"],
    ],
)
def test_no_other_host_is_ever_asked_with_the_key(stub: Stub, url: object) -> None:
    other = Stub()
    said = url.format(port=stub.port, other=other.port) if isinstance(url, str) else url
    REPLICATE.script(stub, REPLICATE.job("running"))
    stub.script(REPLICATE.submit, REPLICATE.job("waiting", urls={"get": said, "cancel": said, "stream": said}))
    with pytest.raises(PlatformError):
        replicate(stub.address, timeout=0.05).predict(FLOWER, call())
    with pytest.raises(PlatformError):
        next(replicate(stub.address, timeout=0.05, stream_domains=("replicate.com",)).stream(FLOWER, call()))
    assert other.connections == 0
    other.close()


def test_a_job_whose_urls_are_missing_is_found_by_its_id(stub: Stub) -> None:
    for urls in ALMOST_URLS:
        REPLICATE.script(stub, REPLICATE.job("succeeded", output=1))
        stub.script(REPLICATE.submit, REPLICATE.job("waiting", urls=urls))
        assert replicate(stub.address).predict(FLOWER, call()).outputs == 1


@pytest.mark.parametrize(
    ("url", "goes_to"),
    [
        ("https://stream.replicate.com/v1/files/x", "https://stream.replicate.com/v1/files/x"),
        ("https://stream-b.svc.ric1.c.replicate.net/v1?a=b", "https://stream-b.svc.ric1.c.replicate.net/v1?a=b"),
        ("https://user:word@stream.replicate.com/x", "https://stream.replicate.com/x"),
        ("http://stream.replicate.com/x", None),
        ("https://stream.replicate.com:8443/x", None),
        ("https://evilreplicate.com/x", None),
        ("https://replicate.com.evil.org/x", None),
    ],
)
def test_a_stream_on_the_vendors_other_hosts_is_read_without_the_key(url: str, goes_to: str | None) -> None:
    platform = Replicate(
        address="https://api.replicate.com/v1/predictions",
        api_key=KEY,
        model=VERSION,
        timeout_seconds=1,
        stream_domains=("replicate.com", "replicate.net"),
    )
    job = platform.job_of({"urls": {"stream": url}}, JOB)
    if goes_to is None:
        with pytest.raises(Unsupported):
            platform._stream_request(job)
    else:
        request = platform._stream_request(job)
        assert (request.url, "Authorization" in request.headers) == (goes_to, False)


def test_the_outputs_of_a_stream_become_chunks_and_its_logs_do_not(stub: Stub) -> None:
    said = [event("output", "Once"), event("logs", "loading"), event("output", " upon\na time"), event("output", "")]
    script_stream(stub, sse(b": hello\n\n", *said, event("done", "{}")))
    chunks = list(replicate(stub.address).stream(FLOWER, call()))
    assert chunks == [Chunk(0, "Once"), Chunk(1, " upon\na time"), Chunk(2, "")]
    assert stub.calls(REPLICATE.submit)[0].json["stream"] is True
    asked = stub.calls(STREAM)[0].headers
    assert (asked["accept"], asked["authorization"]) == ("text/event-stream", f"Bearer {KEY}")
    assert stub.count(REPLICATE.cancel) == 0


def test_each_output_is_forwarded_at_once(stub: Stub) -> None:
    script_stream(stub, sse(event("output", "a"), b"", event("output", "b"), event("done", "{}")))
    stream = replicate(stub.address).stream(FLOWER, call())
    assert next(stream).data == "a"  # the stub sends no more until the gate opens
    stub.gate.set()
    assert [chunk.data for chunk in stream] == ["b"]


@pytest.mark.parametrize("data", ['{"detail": "out of memory on 10.0.0.7"}', "out of memory on 10.0.0.7"])
def test_an_error_in_a_stream_is_an_error_after_its_chunks(stub: Stub, data: str) -> None:
    script_stream(stub, sse(event("output", "a"), event("error", data), event("done", '{"reason": "error"}')))
    stream = replicate(stub.address).stream(FLOWER, call())
    assert next(stream).data == "a"
    with pytest.raises(PlatformError, match="^out of memory on …$"):
        next(stream)
    assert stub.count(REPLICATE.cancel) == 0


@pytest.mark.parametrize(("state", "words"), [("failed", "no GPU"), ("canceled", "was canceled on")])
def test_a_stream_that_is_done_for_a_reason_ends_as_its_job_did(stub: Stub, state: str, words: str) -> None:
    script_stream(stub, sse(event("done", json.dumps({"reason": state}))))
    stub.script(REPLICATE.status, REPLICATE.job(state, error="no GPU"))
    with pytest.raises(PlatformError, match=words):
        list(replicate(stub.address).stream(FLOWER, call()))


@pytest.mark.parametrize("ends", [True, False])
def test_a_stream_that_ends_without_being_done_broke_off_and_its_job_is_canceled(stub: Stub, ends: bool) -> None:
    script_stream(stub, sse(event("output", "a"), b"event: output\ndata: hal", ends=ends))
    stream = replicate(stub.address).stream(FLOWER, call())
    assert next(stream).data == "a"
    with pytest.raises(PlatformError, match="broke off"):
        next(stream)
    assert stub.count(REPLICATE.cancel) == 1


def test_a_model_that_cannot_stream_is_unsupported_and_its_job_is_canceled(stub: Stub) -> None:
    REPLICATE.script(stub)
    with pytest.raises(Unsupported):
        next(replicate(stub.address).stream(FLOWER, call()))
    assert stub.count(REPLICATE.cancel) == 1


def test_a_job_that_failed_at_once_is_not_streamed(stub: Stub) -> None:
    stub.script(REPLICATE.submit, REPLICATE.job("failed", error="bad weights"))
    with pytest.raises(PlatformError, match="bad weights"):
        next(replicate(stub.address).stream(FLOWER, call()))
    assert len(stub.received) == 1


def test_opening_a_stream_is_repeated_as_a_submission_is_not(stub: Stub) -> None:
    script_stream(stub, says(b"", status=500), says(b"", status=503), sse(event("output", "a"), event("done", "{}")))
    assert [chunk.data for chunk in replicate(stub.address).stream(FLOWER, call())] == ["a"]
    assert (stub.count(REPLICATE.submit), stub.count(STREAM)) == (1, 3)


def test_closing_a_stream_closes_its_connection_and_cancels_the_job(stub: Stub) -> None:
    script_stream(stub, streams_until_hung_up(event("output", "a"), content_type="text/event-stream"))
    notes: list[str] = []
    stream = replicate(stub.address).stream(FLOWER, call(on_upstream_cancel=notes.append))
    next(stream)
    stream.close()
    assert stub.hung_up.wait(5)
    assert (stub.count(REPLICATE.cancel), notes) == (1, ["canceled"])


@pytest.mark.parametrize("reason", [StopReason.CANCELED, StopReason.SHUTDOWN])
def test_stopping_the_call_ends_a_stream_that_waits_and_cancels_the_job(stub: Stub, reason: StopReason) -> None:
    script_stream(stub, streams_until_hung_up(event("output", "a"), content_type="text/event-stream"))
    stopped = call(60)
    stream = replicate(stub.address, timeout=60).stream(FLOWER, stopped)
    next(stream)
    later(0.05, lambda: stopped.stop(reason))
    with pytest.raises(CallStopped):
        next(stream)
    assert stub.hung_up.wait(5)
    assert stub.count(REPLICATE.cancel) == 1


def test_a_stream_ends_at_the_deadline_however_it_drips(stub: Stub) -> None:
    script_stream(stub, drips(head(200, {"Content-Type": "text/event-stream"}), b": ping\n\n"))
    with pytest.raises(PlatformTimeout):
        list(replicate(stub.address, timeout=0.2).stream(FLOWER, call()))
    assert stub.count(REPLICATE.cancel) == 1


def test_an_event_without_end_is_an_error(stub: Stub) -> None:
    script_stream(stub, sse(b"event: output\n", *[b"data: " + b"x" * 60000 + b"\n"] * 40))
    with pytest.raises(PlatformError, match="too long"):
        list(replicate(stub.address).stream(FLOWER, call()))


def test_events_are_read_as_their_standard_says() -> None:
    lines = ["data: nameless", "", "event:output", "data:x", "data:  y", "data", "", "event: done", "retry: 3", ""]
    assert list(events(iter([*lines, "event: cut off"]))) == [("output", "x\n y\n"), ("done", "")]


@pytest.mark.parametrize(
    "said",
    [
        "The specified version does not exist (or perhaps you don't have permission to use it?)",
        "Invalid version or not permitted",
    ],
)
def test_a_version_that_the_platform_does_not_know_is_the_settings_fault(stub: Stub, said: str) -> None:
    stub.script(REPLICATE.submit, answers({"title": "Invalid version or not permitted", "detail": said}, status=422))
    with pytest.raises(PlatformError, match="version") as error:
        REPLICATE.make(stub.address).predict(FLOWER, call())
    assert not isinstance(error.value, InvalidInputs)


@pytest.mark.parametrize(
    "said", ["- input: prompt is required\n", "- input.version: this version does not exist\n", "steps must be below 9"]
)
def test_inputs_that_the_model_refuses_are_the_callers_fault(stub: Stub, said: str) -> None:
    stub.script(REPLICATE.submit, answers({"title": "Input validation failed", "detail": said}, status=422))
    with pytest.raises(InvalidInputs):
        REPLICATE.make(stub.address).predict(FLOWER, call())
