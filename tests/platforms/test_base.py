"""Code that all platforms share: times, messages, calls."""

import threading
import time

import pytest

from platforms import Call, CallStopped, Platform, PlatformTimeout, Prediction, StopReason, Unsupported
from platforms.base import lift_running_time, parse_running_time, presentable
from platforms.local import Local
from tests.helpers.makers import k8s, replicate, runpod


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("0.014670133590698242s", 0.014670133590698242),
        ("3.981590270996094e-05s", 3.981590270996094e-05),
        ("1.5 s", 1.5),
        ("2", 2.0),
        (0.5, 0.5),
        (3, 3.0),
        (0, 0.0),
        ("", None),
        ("soon", None),
        ("1.2.3s", None),
        ("-1s", None),
        ("1e999s", None),
        (-1, None),
        (10**400, None),
        (float("nan"), None),
        (float("inf"), None),
        (True, None),
        (None, None),
        ([1], None),
        ("14ms", None),
    ],
)
def test_a_running_time_is_read_in_every_form_seen(said: object, seconds: float | None) -> None:
    assert parse_running_time(said) == seconds


def test_a_running_time_is_lifted_out_of_an_object_only() -> None:
    assert lift_running_time({"output": 1, "running_time": "2s"}).outputs == {"output": 1}
    assert lift_running_time({"running_time": "later"}).outputs == {"running_time": "later"}
    assert lift_running_time(["running_time"]).outputs == ["running_time"]


@pytest.mark.parametrize(
    "secret",
    [
        "http://10.0.0.7:8080/v1/models",
        "postgres://user:word@db/x",
        "/srv/app/model.py",
        "iris-predictor.default.svc.cluster.local",
        "10.0.0.7",
        "worker-7f9c:8080",
        "Bearer abcdef",
        "r8_0123456789abcdef",
        "rpa_0123456789ABCDEF",
    ],
)
def test_a_foreign_message_is_shown_without_addresses_and_keys(secret: str) -> None:
    shown = presentable(f"could not load {secret} for you", fallback="-")
    assert secret not in shown
    assert shown.startswith("could not load")
    assert shown.endswith("for you")


@pytest.mark.parametrize("said", ["", "  ", None, {"a": 1}, "<html>", "Traceback (most recent call last):\n  File"])
def test_a_message_that_says_nothing_is_replaced(said: object) -> None:
    assert presentable(said, fallback="it failed") == "it failed"


def test_only_the_first_line_of_a_message_is_shown() -> None:
    assert presentable("out of memory\nTraceback (most recent call last):\n", fallback="-") == "out of memory"


def test_a_message_of_many_megabytes_is_shown_at_once() -> None:
    assert len(presentable("a-" * 10_000_000, fallback="-")) <= 500


def test_an_upload_webhook_of_the_callers_is_never_handed_on() -> None:
    inputs = {"x": 1, "upload_webhook": "http://evil"}
    assert Prediction("m", inputs).inputs_with_upload() == {"x": 1}
    assert Prediction("m", inputs, upload_webhook="http://ours").inputs_with_upload() == {
        "x": 1,
        "upload_webhook": "http://ours",
    }
    assert Prediction("m", inputs, upload_webhook="http://ours").inputs_alone() == {"x": 1}


def test_the_first_reason_to_stop_counts() -> None:
    call = Call(timeout_seconds=5)
    call.stop(StopReason.CANCELED)
    call.stop(StopReason.SHUTDOWN)
    with pytest.raises(CallStopped) as stopped:
        call.check()
    assert stopped.value.reason is StopReason.CANCELED


def test_a_waiting_call_wakes_when_it_is_stopped() -> None:
    call = Call(timeout_seconds=60)
    threading.Timer(0.05, call.stop, [StopReason.TIMEOUT]).start()
    with pytest.raises(PlatformTimeout):
        call.wait(60)


def test_a_wait_ends_at_the_deadline() -> None:
    call = Call(timeout_seconds=60)
    call.shorten(0.05)
    began = time.monotonic()
    with pytest.raises(PlatformTimeout):
        call.wait(60)
    assert time.monotonic() - began >= 0.05


def test_a_part_of_a_call_ends_before_the_call_does() -> None:
    call = Call(timeout_seconds=60)
    with call.part(0.05) as part:
        with pytest.raises(PlatformTimeout):
            part.wait(60)
        call.check()
    with call.part(600) as part:
        assert part.remaining() <= 60


def test_a_part_stops_with_its_call() -> None:
    call = Call(timeout_seconds=60)
    with call.part(30) as part:
        threading.Timer(0.05, call.stop, [StopReason.SHUTDOWN]).start()
        with pytest.raises(CallStopped) as stopped:
            part.wait(30)
    assert stopped.value.reason is StopReason.SHUTDOWN
    with pytest.raises(CallStopped), call.part(30):
        raise AssertionError("the call is stopped")


def test_a_call_works_without_hooks() -> None:
    call = Call(timeout_seconds=1)
    call.submitted("job-1")
    call.canceled_upstream("canceled")
    assert call.upstream_id == "job-1"


LOCAL = Local(predictor="examples.iris:predict", timeout_seconds=1)


@pytest.mark.parametrize("platform", [LOCAL, k8s("host")], ids=lambda platform: platform.name)
def test_a_platform_that_cannot_stream_says_so(platform: Platform) -> None:
    with pytest.raises(Unsupported, match="cannot stream"):
        next(platform.stream(Prediction("iris", {}), Call(timeout_seconds=1)))


@pytest.mark.parametrize("platform", [replicate("host"), runpod("host")], ids=lambda platform: platform.name)
def test_a_platform_without_input_documentation_says_so(platform: Platform) -> None:
    with pytest.raises(Unsupported, match="no input documentation"):
        platform.docs("iris", Call(timeout_seconds=1))
