"""RunPod's own: its errors, its times, its drained stream."""

import json
from typing import Any

import pytest

from platforms import CallStopped, Chunk, PlatformError, PlatformTimeout, StopReason
from platforms.runpod import RunPod
from tests.helpers.makers import FLOWER, JOB, RUNPOD, call, runpod
from tests.helpers.stub import Step, Stub, answers, hangs, later, resets_after_reading, says

STREAM = f"GET /v2/ep1/stream/{JOB}"


def drained(state: str, *outputs: Any) -> Step:
    return answers({"status": RUNPOD.words[state], "stream": [{"output": output} for output in outputs]})


def script_stream(stub: Stub, *steps: Step, end: Step | None = None) -> None:
    RUNPOD.script(stub, end or RUNPOD.job("succeeded"))
    stub.script(STREAM, *steps)


def streamed(stub: Stub) -> list[str]:
    return [chunk.data for chunk in runpod(stub.address).stream(FLOWER, call())]


def test_the_endpoint_is_part_of_every_address() -> None:
    platform = RunPod(address="https://api.runpod.ai/v2/", api_key=" k ", endpoint="a/b", timeout_seconds=1)
    assert platform.endpoint == "https://api.runpod.ai/v2/a%2Fb"
    assert platform.authorization == {"Authorization": "Bearer k"}


def test_only_the_input_is_sent(stub: Stub) -> None:
    RUNPOD.script(stub, RUNPOD.job("succeeded"))
    runpod(stub.address).predict(FLOWER, call())
    assert stub.received[0].json == {"input": dict(FLOWER.inputs)}


def test_a_job_that_timed_out_there_is_a_timeout(stub: Stub) -> None:
    RUNPOD.script(stub, answers({"id": JOB, "status": "TIMED_OUT"}))
    with pytest.raises(PlatformTimeout, match="gave the prediction up"):
        runpod(stub.address).predict(FLOWER, call())
    assert stub.count(RUNPOD.cancel) == 0


@pytest.mark.parametrize(
    "fields",
    [
        {
            "error": json.dumps(
                {"error_type": "E", "error_message": "bad size", "error_traceback": "T", "hostname": "h"}
            )
        },
        {"error": {"error_message": "bad size", "hostname": "pod-1"}},
        {"error": "bad size\nTraceback (most recent call last):\n  File"},
        {"output": {"error": "bad size"}},
        {"error": json.dumps({"error_message": "bad size"}), "output": {"error": "another"}},
    ],
)
def test_a_failure_hands_on_its_message_only(stub: Stub, fields: dict[str, Any]) -> None:
    RUNPOD.script(stub, RUNPOD.job("failed", **fields))
    with pytest.raises(PlatformError, match="^bad size$"):
        runpod(stub.address).predict(FLOWER, call())


@pytest.mark.parametrize("error", ['{"error_message": "cut of', "{'hostname': 'pod-1'}", '{"hostname": "pod-1"}'])
def test_an_unreadable_error_is_not_shown(stub: Stub, error: str) -> None:
    RUNPOD.script(stub, RUNPOD.job("failed", error=error))
    with pytest.raises(PlatformError, match="^the runpod platform could not complete the prediction$"):
        runpod(stub.address).predict(FLOWER, call())


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({"executionTime": 1234}, 1.234),
        ({"executionTime": 1234, "output": {"running_time": "9s"}}, 1.234),
        ({"output": {"running_time": "9s"}}, 9.0),
        ({"executionTime": None}, None),
        ({"executionTime": -5}, None),
        ({}, None),
    ],
)
def test_the_running_time_is_the_execution_time(stub: Stub, fields: dict[str, Any], seconds: float | None) -> None:
    RUNPOD.script(stub, RUNPOD.job("succeeded", **fields))
    assert runpod(stub.address).predict(FLOWER, call()).running_time == seconds


def test_a_stream_is_drained_until_its_job_has_ended_and_nothing_more_comes(stub: Stub) -> None:
    steps = [drained("waiting"), drained("running", "a", "b"), drained("running"), drained("succeeded", "c")]
    script_stream(stub, *steps, drained("succeeded"))
    chunks = list(runpod(stub.address).stream(FLOWER, call()))
    assert chunks == [Chunk(0, "a"), Chunk(1, "b"), Chunk(2, "c")]
    assert (stub.count(RUNPOD.submit), stub.count(STREAM), stub.count(RUNPOD.cancel)) == (1, 5, 0)


def test_a_stream_may_be_a_bare_list(stub: Stub) -> None:
    script_stream(
        stub,
        answers([]),
        answers([{"output": "a"}, "b"]),
        answers([]),
        answers([{"output": "c"}]),
        answers([]),
        end=RUNPOD.job("succeeded"),
    )
    stub.script(RUNPOD.status, RUNPOD.job("running"), RUNPOD.job("running"), RUNPOD.job("succeeded"))
    assert streamed(stub) == ["a", "b", "c"]


def test_outputs_between_the_last_poll_and_the_end_are_not_lost(stub: Stub) -> None:
    script_stream(stub, answers(["a"]), answers([]), answers(["b"]), answers([]))
    assert streamed(stub) == ["a", "b"]


def test_outputs_that_are_no_text_are_written_as_json(stub: Stub) -> None:
    script_stream(stub, drained("succeeded", {"a": [1, None]}, 3, ["ü"], None), drained("succeeded"))
    assert streamed(stub) == ['{"a":[1,null]}', "3", '["ü"]', "null"]


def test_each_output_is_forwarded_before_the_next_poll(stub: Stub) -> None:
    script_stream(stub, drained("running", "a"), drained("succeeded", "b"), drained("succeeded"))
    stream = runpod(stub.address).stream(FLOWER, call())
    assert next(stream).data == "a"
    assert stub.count(STREAM) == 1
    assert [chunk.data for chunk in stream] == ["b"]


@pytest.mark.parametrize(
    "fault",
    [
        says(b"", status=500),
        answers({}, status=429),
        resets_after_reading,
        says(b"{", content_type="application/json"),
        answers("text"),
        answers({"stream": None}),
    ],
)
def test_what_passes_while_streaming_is_ridden_out(stub: Stub, fault: Step) -> None:
    script_stream(stub, drained("running", "a"), fault, fault, drained("succeeded", "b"), drained("succeeded"))
    stub.script(RUNPOD.status, *[RUNPOD.job("running")] * 2, RUNPOD.job("succeeded"))
    assert streamed(stub) == ["a", "b"]


@pytest.mark.parametrize(("state", "words"), [("failed", "no GPU"), ("canceled", "was canceled on")])
def test_a_stream_ends_as_its_job_did(stub: Stub, state: str, words: str) -> None:
    script_stream(stub, drained("running", "a"), drained(state), end=RUNPOD.job(state, error="no GPU"))
    stream = runpod(stub.address).stream(FLOWER, call())
    assert next(stream).data == "a"
    with pytest.raises(PlatformError, match=words):
        next(stream)
    assert stub.count(RUNPOD.cancel) == 0


def test_a_handler_that_yields_nothing_is_one_chunk(stub: Stub) -> None:
    script_stream(stub, drained("succeeded"), end=RUNPOD.job("succeeded", output={"label": 1}))
    assert streamed(stub) == ['{"label":1}']


def test_a_stream_whose_job_is_gone_is_an_error(stub: Stub) -> None:
    script_stream(stub, drained("running", "a"), answers({}, status=404))
    with pytest.raises(PlatformError, match="does not know the job"):
        streamed(stub)


def test_closing_a_stream_cancels_the_job(stub: Stub) -> None:
    script_stream(stub, drained("running", "a"))
    notes: list[str] = []
    stream = runpod(stub.address).stream(FLOWER, call(on_upstream_cancel=notes.append))
    next(stream)
    stream.close()
    assert (stub.count(RUNPOD.cancel), notes) == (1, ["canceled"])


def test_stopping_the_call_ends_a_stream_that_waits_and_cancels_the_job(stub: Stub) -> None:
    script_stream(stub, drained("running", "a"), hangs)
    stopped = call(60)
    stream = runpod(stub.address, timeout=60).stream(FLOWER, stopped)
    next(stream)
    later(0.05, lambda: stopped.stop(StopReason.CANCELED))
    with pytest.raises(CallStopped):
        next(stream)
    assert stub.hung_up.wait(5)
    assert stub.count(RUNPOD.cancel) == 1


def test_a_stream_without_end_ends_at_the_deadline(stub: Stub) -> None:
    script_stream(stub, drained("running", "a"))
    with pytest.raises(PlatformTimeout):
        list(runpod(stub.address, timeout=0.2).stream(FLOWER, call()))
    assert stub.count(RUNPOD.cancel) == 1
