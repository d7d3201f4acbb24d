"""Submitting, polling, re-attaching and canceling, on both platforms that work with jobs."""

import threading
import time
from itertools import pairwise

import pytest

from platforms import (
    CallStopped,
    InvalidInputs,
    PlatformError,
    PlatformTimeout,
    PlatformUnavailable,
    Prediction,
    StopReason,
)
from platforms.replicate import Replicate
from tests.helpers.makers import FLOWER, JOB, KEY, REPLICATE, RUNPOD, Cloud, call
from tests.helpers.stub import (
    Step,
    Stub,
    Visit,
    answers,
    closed_port,
    closes_without_answer,
    drips,
    hangs,
    head,
    later,
    pours,
    resets_after_reading,
    resets_while_reading,
    says,
    sends,
    streams,
)

LARGE = Prediction("iris", {"image": "x" * 20_000_000})


@pytest.fixture(params=[REPLICATE, RUNPOD], ids=["replicate", "runpod"])
def cloud(request: pytest.FixtureRequest) -> Cloud:
    return request.param  # type: ignore[no-any-return]


class Told:
    """The events that a call's hooks got, in order."""

    def __init__(self, seconds: float = 10.0, **more: str) -> None:
        self.ids: list[str] = []
        self.notes: list[str] = []
        self.call = call(seconds, on_submitted=self.ids.append, on_upstream_cancel=self.notes.append, **more)


def test_a_job_is_submitted_once_and_asked_about_until_it_has_ended(cloud: Cloud, stub: Stub) -> None:
    cloud.script(stub, cloud.job("waiting"), cloud.job("running"), cloud.job("succeeded", output={"label": 1}))
    result = cloud.make(stub.address).predict(FLOWER, call())
    assert result.outputs == {"label": 1}
    assert (stub.count(cloud.submit), stub.count(cloud.status), stub.count(cloud.cancel)) == (1, 3, 0)
    assert {one.headers["authorization"] for one in stub.received} == {f"Bearer {KEY}"}


def test_a_job_that_has_ended_when_it_is_taken_is_not_asked_about(cloud: Cloud, stub: Stub) -> None:
    stub.script(cloud.submit, cloud.job("succeeded", output="quick"))
    told = Told()
    assert cloud.make(stub.address).predict(FLOWER, told.call).outputs == "quick"
    assert (told.ids, len(stub.received)) == ([JOB], 1)


def test_the_id_is_reported_before_the_first_poll(cloud: Cloud, stub: Stub) -> None:
    cloud.script(stub, cloud.job("succeeded"))
    polls_before: list[int] = []
    told = call(on_submitted=lambda _: polls_before.append(stub.count(cloud.status)))
    cloud.make(stub.address).predict(FLOWER, told)
    assert polls_before == [0]
    assert told.upstream_id == JOB


def test_a_job_whose_id_cannot_be_kept_is_canceled_and_the_error_flies(cloud: Cloud, stub: Stub) -> None:
    cloud.script(stub, cloud.job("running"))
    notes: list[str] = []

    def cannot(upstream_id: str) -> None:
        raise LookupError("the database is gone")

    with pytest.raises(LookupError):
        cloud.make(stub.address).predict(FLOWER, call(on_submitted=cannot, on_upstream_cancel=notes.append))
    assert (stub.count(cloud.status), stub.count(cloud.cancel), notes) == (0, 1, ["canceled"])


def test_a_second_attempt_comes_back_to_the_job(cloud: Cloud, stub: Stub) -> None:
    cloud.script(stub, cloud.job("running"), cloud.job("succeeded", output=[1]))
    told = Told(upstream_id=JOB)
    assert cloud.make(stub.address).predict(FLOWER, told.call).outputs == [1]
    assert (stub.count(cloud.submit), stub.count(cloud.status), told.ids) == (0, 2, [])


def test_the_callers_upload_webhook_is_never_sent(cloud: Cloud, stub: Stub) -> None:
    cloud.script(stub, cloud.job("succeeded"))
    asked = Prediction("iris", {"x": 1, "upload_webhook": "http://evil"}, upload_webhook="http://ours/upload")
    cloud.make(stub.address).predict(asked, call())
    assert stub.received[0].json["input"] == {"x": 1}


@pytest.mark.parametrize("output", [None, "text", 3, [1, "a"], {"a": {"b": None}}, ["https://files/x.png"]])
def test_outputs_may_be_anything(cloud: Cloud, stub: Stub, output: object) -> None:
    cloud.script(stub, cloud.job("succeeded", output=output))
    assert cloud.make(stub.address).predict(FLOWER, call()).outputs == output


def test_an_output_before_the_end_is_only_progress(cloud: Cloud, stub: Stub) -> None:
    cloud.script(stub, cloud.job("running", output="10 %"), cloud.job("succeeded", output="all of it"))
    assert cloud.make(stub.address).predict(FLOWER, call()).outputs == "all of it"


def test_nan_in_outputs_becomes_none(cloud: Cloud, stub: Stub) -> None:
    body = f'{{"id": "{JOB}", "status": "{cloud.words["succeeded"]}", "output": [NaN, -Infinity, 1.5]}}'
    cloud.script(stub, says(body.encode(), content_type="application/json"))
    assert cloud.make(stub.address).predict(FLOWER, call()).outputs == [None, None, 1.5]


def test_a_failed_job_is_an_http_200_and_fails_in_its_own_words(cloud: Cloud, stub: Stub) -> None:
    said = "CUDA out of memory on http://10.0.0.7/m\nTraceback (most recent call last):\n  File x"
    cloud.script(stub, cloud.job("failed", error=said))
    told = Told()
    with pytest.raises(PlatformError, match="^CUDA out of memory on …$"):
        cloud.make(stub.address).predict(FLOWER, told.call)
    assert (stub.count(cloud.status), told.notes) == (1, [])


@pytest.mark.parametrize("error", [None, "", 7, {"code": 7}, f"Bearer {KEY}", "Traceback (most recent call last)"])
def test_a_failure_without_words_is_still_told(cloud: Cloud, stub: Stub, error: object) -> None:
    cloud.script(stub, cloud.job("failed", error=error))
    with pytest.raises(PlatformError) as failed:
        cloud.make(stub.address).predict(FLOWER, call())
    assert str(failed.value)
    assert KEY not in str(failed.value)


def test_a_job_that_another_client_canceled_fails(cloud: Cloud, stub: Stub) -> None:
    cloud.script(stub, cloud.job("canceled"))
    with pytest.raises(PlatformError, match="was canceled on the"):
        cloud.make(stub.address).predict(FLOWER, call())
    assert stub.count(cloud.cancel) == 0


@pytest.mark.parametrize("status", ["RUNNING", "resumed", "", None, 3, {"a": 1}])
def test_an_unknown_status_is_not_the_end(cloud: Cloud, stub: Stub, status: object) -> None:
    cloud.script(stub, answers({"id": JOB, "status": status}), cloud.job("succeeded", output=1))
    assert cloud.make(stub.address).predict(FLOWER, call()).outputs == 1


@pytest.mark.parametrize(
    "fault",
    [
        answers({}, status=429),
        answers({}, status=429, retry_after="0"),
        answers({"detail": "throttled"}, status=408),
        says(b"", status=500),
        says(b"<html>bad gateway", status=502),
        says(b"", status=503),
        says(b"upstream request timeout", status=504),
        resets_after_reading,
        closes_without_answer,
        sends(b"nonsense\r\n\r\n"),
        sends(head(200, {"Content-Length": "1000"}) + b'{"id'),
        says(b'{"id": ', content_type="application/json"),
        says(b"<html>Sign in", content_type="text/html"),
        answers({}),
        answers([1]),
        answers("text"),
        answers(None),
        streams(b'{"status"', ends=False),
    ],
)
def test_what_passes_while_polling_is_ridden_out(cloud: Cloud, stub: Stub, fault: Step) -> None:
    cloud.script(stub, fault, fault, cloud.job("succeeded", output=1))
    assert cloud.make(stub.address).predict(FLOWER, call()).outputs == 1
    assert (stub.count(cloud.submit), stub.count(cloud.status), stub.count(cloud.cancel)) == (1, 3, 0)


def test_retry_after_is_waited_for_while_polling(stub: Stub) -> None:
    RUNPOD.script(stub, answers({}, status=429, retry_after="1"), RUNPOD.job("succeeded"))
    began = time.monotonic()
    RUNPOD.make(stub.address).predict(FLOWER, call())
    assert time.monotonic() - began >= 1


def test_a_server_that_is_away_for_a_while_is_ridden_out(cloud: Cloud) -> None:
    stub = Stub(listens=False)
    cloud.script(stub, cloud.job("succeeded", output=1))
    later(0.25, stub.listen)
    assert cloud.make(stub.address).predict(FLOWER, call(upstream_id=JOB)).outputs == 1
    stub.close()


def test_a_job_that_is_gone_is_an_error_and_there_is_nothing_to_cancel(cloud: Cloud, stub: Stub) -> None:
    cloud.script(stub, answers({}, status=404))
    with pytest.raises(PlatformError, match="does not know the job"):
        cloud.make(stub.address).predict(FLOWER, call(upstream_id=JOB))
    assert (stub.count(cloud.submit), stub.count(cloud.status), stub.count(cloud.cancel)) == (0, 1, 0)


@pytest.mark.parametrize("status", [301, 400, 401, 403, 410])
def test_a_poll_that_is_refused_for_good_is_not_repeated(cloud: Cloud, stub: Stub, status: int) -> None:
    cloud.script(stub, answers({"detail": KEY}, status=status, location="/elsewhere"))
    with pytest.raises(PlatformError, match=str(status)):
        cloud.make(stub.address).predict(FLOWER, call())
    assert stub.count(cloud.status) == 1


def test_a_result_of_200_mb_is_an_error_at_once(cloud: Cloud, stub: Stub) -> None:
    cloud.script(stub, pours(200_000_000))
    with pytest.raises(PlatformError, match="MAX_RESPONSE_BODY"):
        cloud.make(stub.address, max_response_bytes=1_000_000).predict(FLOWER, call())
    assert stub.count(cloud.status) == 1


# --- The submission: a job more is paid for


def test_a_submission_that_was_throttled_is_repeated(cloud: Cloud, stub: Stub) -> None:
    cloud.script(stub, cloud.job("succeeded", output=1))
    throttled = answers({"detail": "Request was throttled."}, status=429, retry_after="0")
    stub.script(cloud.submit, throttled, throttled, cloud.job("waiting"))
    assert cloud.make(stub.address).predict(FLOWER, call()).outputs == 1
    assert stub.count(cloud.submit) == 3


@pytest.mark.parametrize(("status", "times"), [(502, 1), (503, 1), (500, 1), (504, 1)])
def test_replicate_repeats_no_submission_after_a_server_error(stub: Stub, status: int, times: int) -> None:
    stub.script(REPLICATE.submit, says(b"", status=status))
    with pytest.raises(PlatformError):
        REPLICATE.make(stub.address).predict(FLOWER, call())
    assert stub.count(REPLICATE.submit) == times


@pytest.mark.parametrize(("status", "times"), [(502, 1), (503, 5), (500, 1), (504, 1)])
def test_runpod_repeats_a_submission_it_could_not_take(stub: Stub, status: int, times: int) -> None:
    stub.script(RUNPOD.submit, says(b"", status=status))
    with pytest.raises(PlatformError):
        RUNPOD.make(stub.address).predict(FLOWER, call())
    assert stub.count(RUNPOD.submit) == times


@pytest.mark.parametrize(
    "fault",
    [
        resets_after_reading,
        closes_without_answer,
        says(b'{"id": ', content_type="application/json"),
        says(b"<html>", content_type="text/html"),
        answers([1]),
        answers("text"),
        answers(None),
        answers({"status": "starting"}),
        answers({"id": "../../admin"}),
        answers({"id": ["job-1"]}),
        streams(b'{"id"', ends=False),
    ],
)
def test_a_submission_whose_answer_is_lost_is_not_repeated(cloud: Cloud, stub: Stub, fault: Step) -> None:
    stub.script(cloud.submit, fault, cloud.job("waiting"))
    told = Told()
    with pytest.raises(PlatformError):
        cloud.make(stub.address).predict(FLOWER, told.call)
    assert (len(stub.received), told.ids) == (1, [])


@pytest.mark.parametrize(
    "fault",
    [hangs, drips(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), drips(head(200, {"Content-Length": "999999"}), b" ")],
    ids=["no answer", "slow headers", "slow body"],
)
def test_a_submission_that_times_out_is_not_repeated(cloud: Cloud, stub: Stub, fault: Step) -> None:
    stub.script(cloud.submit, fault)
    with pytest.raises(PlatformTimeout):
        cloud.make(stub.address, timeout=0.12).predict(FLOWER, call())
    assert len(stub.received) == 1


def test_a_submission_of_which_not_all_was_sent_is_repeated(cloud: Cloud, stub: Stub) -> None:
    cloud.script(stub, cloud.job("succeeded", output=1))
    stub.script(cloud.submit, resets_while_reading, cloud.job("waiting"))
    assert cloud.make(stub.address).predict(LARGE, call()).outputs == 1
    assert stub.count(cloud.submit) == 2


def test_a_submission_to_a_closed_port_is_unavailable(cloud: Cloud) -> None:
    with pytest.raises(PlatformUnavailable):
        cloud.make(f"127.0.0.1:{closed_port()}").predict(FLOWER, call())


@pytest.mark.parametrize("status", [400, 422])
def test_inputs_refused_at_submission_are_the_callers(cloud: Cloud, stub: Stub, status: int) -> None:
    stub.script(cloud.submit, answers({"title": "Invalid", "detail": "prompt is required"}, status=status))
    with pytest.raises(InvalidInputs, match="prompt is required"):
        cloud.make(stub.address).predict(FLOWER, call())
    assert len(stub.received) == 1


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_other_refusals_at_submission_are_not_the_callers(
    cloud: Cloud, stub: Stub, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    stub.script(cloud.submit, answers({"detail": f"the key {KEY} may not"}, status=status))
    with caplog.at_level("DEBUG", logger="platforms"), pytest.raises(PlatformError) as refused:
        cloud.make(stub.address).predict(FLOWER, call())
    assert not isinstance(refused.value, InvalidInputs)
    assert KEY not in f"{refused.value} {refused.value.__cause__} {caplog.text}"


def test_a_key_that_no_header_can_hold_is_not_shown(cloud: Cloud, stub: Stub, caplog: pytest.LogCaptureFixture) -> None:
    platform = cloud.make(stub.address)
    platform.authorization = {"Authorization": f"Bearer {KEY}\nx"}
    with caplog.at_level("DEBUG"), pytest.raises(PlatformError) as refused:
        platform.predict(FLOWER, call())
    assert KEY not in f"{refused.value!r} {refused.value.__cause__!r} {caplog.text}"


# --- Wrapped outputs


@pytest.mark.parametrize("output", [7, "text", ["a"], None, {"running_time": "9s", "x": 1}])
def test_outputs_come_as_they_are_or_wrapped(cloud: Cloud, stub: Stub, output: object) -> None:
    """Wrapped, they equal the Go original's outputs; the contents stay unchanged."""
    cloud.script(stub, cloud.job("succeeded", output=output))
    wrapped = cloud.make(stub.address, wrap_outputs=True).predict(FLOWER, call())
    assert wrapped.outputs == {"output": output}
    plain = cloud.make(stub.address).predict(FLOWER, call())
    assert plain.outputs == ({"x": 1} if isinstance(output, dict) else output)


# --- Ends that come from here


def test_the_job_is_canceled_at_the_deadline(cloud: Cloud, stub: Stub) -> None:
    cloud.script(stub, cloud.job("running"))
    told = Told()
    with pytest.raises(PlatformTimeout):
        cloud.make(stub.address, timeout=0.12).predict(FLOWER, told.call)
    assert (stub.count(cloud.cancel), told.notes) == (1, ["canceled"])


@pytest.mark.parametrize(
    "fault", [hangs, says(b"", status=503), answers({}, status=429, retry_after="3600"), resets_after_reading]
)
def test_a_platform_that_only_fails_ends_at_the_deadline(cloud: Cloud, stub: Stub, fault: Step) -> None:
    cloud.script(stub, fault)
    told = Told()
    with pytest.raises(PlatformTimeout):
        cloud.make(stub.address, timeout=0.12).predict(FLOWER, told.call)
    assert told.notes == ["canceled"]


def test_a_canceled_call_cancels_the_job(cloud: Cloud, stub: Stub) -> None:
    told = Told(60)
    cloud.script(stub, cloud.job("running"))
    stub.when_asked(cloud.status, lambda: told.call.stop(StopReason.CANCELED))
    with pytest.raises(CallStopped) as stopped:
        cloud.make(stub.address, timeout=60).predict(FLOWER, told.call)
    assert stopped.value.reason is StopReason.CANCELED
    assert (stub.count(cloud.cancel), told.notes) == (1, ["canceled"])


def test_a_canceled_call_does_not_wait_for_the_poll_it_is_in(cloud: Cloud, stub: Stub) -> None:
    told = Told(60)
    cloud.script(stub, hangs)
    stub.when_asked(cloud.status, lambda: told.call.stop(StopReason.CANCELED))
    with pytest.raises(CallStopped):
        cloud.make(stub.address, timeout=60).predict(FLOWER, told.call)
    assert (stub.count(cloud.status), told.notes) == (1, ["canceled"])


def test_a_task_canceled_before_its_second_attempt_cancels_the_job(cloud: Cloud, stub: Stub) -> None:
    told = Told(upstream_id=JOB)
    cloud.script(stub, cloud.job("running"))
    told.call.stop(StopReason.CANCELED)
    with pytest.raises(CallStopped):
        cloud.make(stub.address).predict(FLOWER, told.call)
    assert (stub.count(cloud.status), stub.count(cloud.cancel), told.notes) == (0, 1, ["canceled"])


def test_a_shutdown_leaves_the_job_running_for_the_next_attempt(cloud: Cloud, stub: Stub) -> None:
    told = Told(60)
    cloud.script(stub, cloud.job("running"))
    stub.when_asked(cloud.status, lambda: told.call.stop(StopReason.SHUTDOWN))
    platform = cloud.make(stub.address)
    with pytest.raises(CallStopped) as stopped:
        platform.predict(FLOWER, told.call)
    assert stopped.value.reason is StopReason.SHUTDOWN
    assert (stub.count(cloud.cancel), told.notes) == (0, [])
    stub.script(cloud.status, cloud.job("succeeded", output=1))
    assert platform.predict(FLOWER, call(upstream_id=told.ids[0])).outputs == 1
    assert stub.count(cloud.submit) == 1


@pytest.mark.parametrize("reason", [StopReason.CANCELED, StopReason.SHUTDOWN])
def test_a_stop_during_the_submission_waits_for_the_id(cloud: Cloud, stub: Stub, reason: StopReason) -> None:
    told = Told(60)
    cloud.script(stub, cloud.job("running"))

    def slowly(visit: Visit) -> None:
        visit.stub.gate.wait(5)
        cloud.job("waiting")(visit)

    def stop_and_let_go() -> None:
        told.call.stop(reason)
        stub.gate.set()

    stub.script(cloud.submit, slowly)
    stub.when_asked(cloud.submit, stop_and_let_go)
    with pytest.raises(CallStopped):
        cloud.make(stub.address, timeout=60).predict(FLOWER, told.call)
    assert (told.ids, stub.count(cloud.status)) == ([JOB], 0)
    assert told.notes == (["canceled"] if reason is StopReason.CANCELED else [])


def test_a_stop_during_the_submission_does_not_hang(cloud: Cloud, stub: Stub) -> None:
    told = Told(60)
    stub.script(cloud.submit, hangs)
    stub.when_asked(cloud.submit, lambda: told.call.stop(StopReason.CANCELED))
    with pytest.raises(CallStopped) as stopped:
        cloud.make(stub.address, timeout=60).predict(FLOWER, told.call)
    assert stopped.value.reason is StopReason.CANCELED
    assert stub.hung_up.wait(5)
    assert (told.ids, told.notes) == ([], [])


def test_a_stop_between_tries_of_a_submission_ends_them(cloud: Cloud, stub: Stub) -> None:
    told = Told(60)
    stub.script(cloud.submit, answers({}, status=429, retry_after="1"), cloud.job("waiting"))
    stub.when_asked(cloud.submit, lambda: told.call.stop(StopReason.CANCELED))
    platform = cloud.make(stub.address, timeout=60)
    platform.submit_grace_seconds = 60
    with pytest.raises(CallStopped):
        platform.predict(FLOWER, told.call)
    assert len(stub.received) == 1


@pytest.mark.parametrize(
    ("steps", "note", "tries"),
    [
        ([answers({"status": "succeeded"}), answers({"status": "COMPLETED"})], "already finished", 1),
        ([answers({"status": "processing"})], "canceled", 1),
        ([says(b"")], "canceled", 1),
        ([answers({}, status=404)], "refused (404)", 1),
        ([answers({}, status=401)], "refused (401)", 1),
        ([says(b"", status=503), answers({})], "canceled", 2),
        ([resets_after_reading, answers({})], "canceled", 2),
        ([says(b"", status=500)], "refused (500)", 3),
        ([hangs], "no answer", 3),
        ([closes_without_answer], "no answer", 3),
    ],
)
def test_the_outcome_of_canceling_is_reported(
    cloud: Cloud, stub: Stub, steps: list[Step], note: str, tries: int
) -> None:
    told = Told()
    cloud.script(stub, cloud.job("running"))
    finished = note == "already finished"
    stub.script(cloud.cancel, *([steps[0 if cloud is REPLICATE else 1]] if finished else steps))
    with pytest.raises(PlatformTimeout):
        cloud.make(stub.address, timeout=0.4).predict(FLOWER, told.call)
    assert told.notes == [note]
    tried = stub.count(cloud.cancel)
    assert 1 <= tried <= tries if note == "no answer" else tried == tries  # as often as its seconds allow


def test_calls_on_one_platform_do_not_disturb_each_other(cloud: Cloud, stub: Stub) -> None:
    cloud.script(stub, cloud.job("running"), cloud.job("succeeded", output=1))
    platform = cloud.make(stub.address)
    results: list[object] = []
    threads = [
        threading.Thread(target=lambda: results.append(platform.predict(FLOWER, call()).outputs), daemon=True)
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [1] * 8
    assert stub.count(cloud.submit) == 8


# --- The pace


def polls_until(seconds: float) -> list[float]:
    """The moments of the polls of a job that takes so long, if every answer comes at once."""
    pause = Replicate(address="http://host", api_key="", model="", timeout_seconds=1).pause
    moments = [pause(0)]
    while moments[-1] < seconds:
        moments.append(moments[-1] + pause(moments[-1]))
    return moments


def test_polling_begins_fast_and_never_gets_slower_than_two_seconds() -> None:
    moments = polls_until(600)
    assert moments[0] <= 0.1
    assert max(second - first for first, second in pairwise(moments)) <= 2.001


def test_a_job_of_up_to_two_seconds_is_noticed_within_150_ms_on_the_median() -> None:
    delays = sorted(polls_until(end / 100)[-1] - end / 100 for end in range(1, 201))
    assert delays[len(delays) // 2] <= 0.15


def test_a_job_of_half_a_minute_is_noticed_within_a_second_with_fewer_polls_than_seconds() -> None:
    delays = sorted(polls_until(25 + end / 10)[-1] - (25 + end / 10) for end in range(100))
    assert delays[len(delays) // 2] <= 1.0
    assert len(polls_until(30)) <= 30


def test_the_deadline_of_the_call_counts_when_it_is_nearer_than_the_platforms(cloud: Cloud, stub: Stub) -> None:
    cloud.script(stub, cloud.job("running"))
    told = Told(0.2)
    with pytest.raises(PlatformTimeout):
        cloud.make(stub.address, timeout=60).predict(FLOWER, told.call)
    assert told.notes == ["canceled"]
