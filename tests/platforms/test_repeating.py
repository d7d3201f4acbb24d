"""Which requests the agent repeats, counted by the server, on the platforms that answer the request itself."""

import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from platforms import (
    CallStopped,
    InvalidInputs,
    PlatformError,
    PlatformTimeout,
    PlatformUnavailable,
    Prediction,
    StopReason,
    connection,
)
from tests.helpers.makers import FLOWER, K8S, KSERVE, Direct, call
from tests.helpers.stub import (
    Stub,
    answers,
    closed_port,
    closes_without_answer,
    drips,
    hangs,
    head,
    later,
    pours,
    reads_nothing,
    reads_slowly,
    resets_after_reading,
    resets_while_reading,
    says,
    sends,
    streams,
)

GOOD = answers({"predictions": [1]})
LARGE = Prediction("iris", {"image": "x" * 20_000_000})


@pytest.fixture(params=[KSERVE, K8S], ids=["kserve", "k8s"])
def direct(request: pytest.FixtureRequest) -> Direct:
    return request.param  # type: ignore[no-any-return]


def test_an_answer_is_returned(direct: Direct, stub: Stub) -> None:
    stub.script(direct.route, answers({"predictions": [1], "running_time": "0.0146s"}))
    result = direct.make(stub.address).predict(FLOWER, call())
    assert (result.outputs, result.running_time) == ({"predictions": [1]}, 0.0146)


def test_a_refused_connection_is_retried_until_the_server_listens(direct: Direct) -> None:
    stub = Stub(listens=False)
    stub.script(direct.route, GOOD)
    platform = direct.make(stub.address)
    platform.first_wait_seconds = 0.1
    later(0.15, stub.listen)
    assert platform.predict(FLOWER, call()).outputs == {"predictions": [1]}
    assert stub.count(direct.route) == 1
    stub.close()


def test_a_refused_connection_ends_as_unavailable(direct: Direct) -> None:
    with pytest.raises(PlatformUnavailable, match="could not be reached"):
        direct.make(f"127.0.0.1:{closed_port()}").predict(FLOWER, call())


def test_a_connection_reset_while_sending_is_repeated(direct: Direct, stub: Stub) -> None:
    stub.script(direct.route, resets_while_reading, GOOD)
    assert direct.make(stub.address).predict(LARGE, call()).outputs == {"predictions": [1]}
    assert stub.count(direct.route) == 2


@pytest.mark.parametrize("fault", [resets_after_reading, closes_without_answer])
def test_a_connection_broken_after_sending_is_not_repeated(direct: Direct, stub: Stub, fault: object) -> None:
    stub.script(direct.route, fault, GOOD)  # type: ignore[arg-type]
    with pytest.raises(PlatformError, match="broke off"):
        direct.make(stub.address).predict(FLOWER, call())
    assert stub.count(direct.route) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_busy_answers_are_repeated(direct: Direct, stub: Stub, status: int) -> None:
    stub.script(direct.route, says(b"busy", status=status), says(b"busy", status=status), GOOD)
    assert direct.make(stub.address).predict(FLOWER, call()).outputs == {"predictions": [1]}
    assert stub.count(direct.route) == 3


@pytest.mark.parametrize("status", [429, 503])
def test_retries_of_busy_answers_end(direct: Direct, stub: Stub, status: int) -> None:
    stub.script(direct.route, answers({"error": "no GPU is free"}, status=status))
    with pytest.raises(PlatformUnavailable, match="no GPU is free"):
        direct.make(stub.address).predict(FLOWER, call())
    assert stub.count(direct.route) == 5


@pytest.mark.parametrize("status", [500, 501, 502, 504])
def test_other_errors_are_not_repeated(direct: Direct, stub: Stub, status: int) -> None:
    stub.script(direct.route, says(b"upstream request timeout", status=status), GOOD)
    with pytest.raises(PlatformTimeout if status == 504 else PlatformError):
        direct.make(stub.address).predict(FLOWER, call())
    assert stub.count(direct.route) == 1


def test_retry_after_is_waited_for(stub: Stub) -> None:
    stub.script(K8S.route, answers({}, status=429, retry_after="1"), GOOD)
    began = time.monotonic()
    K8S.make(stub.address).predict(FLOWER, call())
    assert time.monotonic() - began >= 1
    assert stub.count(K8S.route) == 2


def test_a_retry_after_beyond_the_deadline_is_not_waited_for(direct: Direct, stub: Stub) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    for value in ("3600", "9" * 400, date):
        stub.script(direct.route, answers({}, status=429, retry_after=value))
        with pytest.raises(PlatformUnavailable):
            direct.make(stub.address).predict(FLOWER, call())
    assert stub.count(direct.route) == 3


@pytest.mark.parametrize("value", ["soon", "²", "-1", ""])
def test_an_invalid_retry_after_is_ignored(stub: Stub, value: str) -> None:
    stub.script(K8S.route, answers({}, status=503, retry_after=value), GOOD)
    assert K8S.make(stub.address).predict(FLOWER, call()).outputs == {"predictions": [1]}


@pytest.mark.parametrize(
    "step",
    [
        hangs,
        drips(b"HTTP/1.1 200 OK\r\n", b"X-Slow: yes\r\n"),
        drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n", every=0.001),
        drips(head(200, {"Content-Length": "1000000"}), b" "),
        drips(head(200, {"Transfer-Encoding": "chunked"}), b"1\r\n \r\n"),
        drips(head(200), b" "),
    ],
    ids=["no answer", "slow headers", "endless 100s", "slow body", "slow chunks", "endless body"],
)
def test_a_slow_answer_ends_at_the_deadline_and_is_not_repeated(direct: Direct, stub: Stub, step: object) -> None:
    stub.script(direct.route, step, GOOD)  # type: ignore[arg-type]
    with pytest.raises(PlatformTimeout):
        direct.make(stub.address, timeout=0.12).predict(FLOWER, call())
    assert stub.count(direct.route) == 1


def test_a_server_that_does_not_read_ends_at_the_deadline(direct: Direct, stub: Stub) -> None:
    stub.script(direct.route, reads_nothing)
    with pytest.raises(PlatformTimeout):
        direct.make(stub.address, timeout=0.12).predict(LARGE, call())


def test_sending_may_take_longer_than_connecting(direct: Direct, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_SECONDS", 0.1)
    stub.script(direct.route, reads_slowly)
    assert direct.make(stub.address).predict(LARGE, call()).outputs == {"predictions": [1]}
    assert stub.count(direct.route) == 1


def test_the_waits_between_tries_end_at_the_deadline(direct: Direct) -> None:
    platform = direct.make(f"127.0.0.1:{closed_port()}", timeout=0.12)
    platform.first_wait_seconds = 0.2
    with pytest.raises((PlatformUnavailable, PlatformTimeout)):
        platform.predict(FLOWER, call())


@pytest.mark.parametrize(
    "step",
    [
        says(b"{", content_type="application/json"),
        says(b"<!DOCTYPE html><title>Sign in</title>", content_type="text/html"),
        says(b"<html>"),
        says(b"\xff\xfe", content_type="application/json"),
        says(b"[" * 100_000, content_type="application/json"),
        sends(b"nonsense\r\n\r\n"),
        sends(head(200, {"Content-Length": "100"}) + b'{"a":'),
        streams(b'{"predictions":', ends=False),
    ],
)
def test_an_unreadable_answer_is_an_error_and_not_repeated(direct: Direct, stub: Stub, step: object) -> None:
    stub.script(direct.route, step, GOOD)  # type: ignore[arg-type]
    with pytest.raises(PlatformError):
        direct.make(stub.address).predict(FLOWER, call())
    assert stub.count(direct.route) == 1


@pytest.mark.parametrize("body", [[1], "text", 3, None])
def test_a_plain_service_has_to_answer_an_object(stub: Stub, body: object) -> None:
    stub.script(K8S.route, answers(body))
    with pytest.raises(PlatformError, match="not a JSON object"):
        K8S.make(stub.address).predict(FLOWER, call())
    assert stub.count(K8S.route) == 1


@pytest.mark.parametrize("announced", [True, False])
def test_an_answer_of_200_mb_is_an_error_and_not_repeated(direct: Direct, stub: Stub, announced: bool) -> None:
    stub.script(direct.route, pours(200_000_000, announced=announced), GOOD)
    with pytest.raises(PlatformError, match="MAX_RESPONSE_BODY"):
        direct.make(stub.address, max_response_bytes=1_000_000).predict(FLOWER, call())
    assert stub.count(direct.route) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(direct: Direct, stub: Stub, status: int) -> None:
    stub.script(direct.route, answers({}, status=status, location=f"{stub.url}/elsewhere"))
    with pytest.raises(PlatformError, match=f"answered {status}"):
        direct.make(stub.address).predict(FLOWER, call())
    assert len(stub.received) == 1


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_refused_inputs_show_the_platforms_message(direct: Direct, stub: Stub, status: int) -> None:
    body = {"detail": [{"loc": ["body"], "msg": "X has 2 features", "type": "value_error"}]}
    stub.script(direct.route, answers(body, status=status))
    with pytest.raises(InvalidInputs, match="^X has 2 features$"):
        direct.make(stub.address).predict(FLOWER, call())
    assert stub.count(direct.route) == 1


def test_an_error_keeps_its_status_whatever_becomes_of_its_body(direct: Direct, stub: Stub) -> None:
    for step in (pours(200_000_000, status=400), streams(b'{"error"', status=400, ends=False)):
        stub.script(direct.route, step)
        with pytest.raises(InvalidInputs):
            direct.make(stub.address).predict(FLOWER, call())


def test_inputs_that_json_cannot_say_are_refused_and_not_sent(direct: Direct, stub: Stub) -> None:
    with pytest.raises(InvalidInputs):
        direct.make(stub.address).predict(Prediction("iris", {"x": float("nan")}), call())
    assert not stub.received


def test_a_connection_the_server_closed_meanwhile_is_not_used_again(direct: Direct, stub: Stub) -> None:
    stub.script(direct.route, sends(head(200, {"Content-Length": "2"}) + b"{}"), GOOD)
    platform = direct.make(stub.address)
    platform.predict(FLOWER, call())
    time.sleep(0.05)
    assert platform.predict(FLOWER, call()).outputs == {"predictions": [1]}
    assert (stub.connections, stub.count(direct.route)) == (2, 2)


def test_a_connection_is_not_used_again_after_an_error_of_the_server(direct: Direct, stub: Stub) -> None:
    """Servers on uvicorn close it a moment later, when the next prediction may be on its way."""
    stub.script(direct.route, answers({"error": "out of memory"}, status=500), GOOD)
    platform = direct.make(stub.address)
    with pytest.raises(PlatformError, match="out of memory"):
        platform.predict(FLOWER, call())
    assert platform.predict(FLOWER, call()).outputs == {"predictions": [1]}
    assert (stub.connections, stub.count(direct.route)) == (2, 2)


def test_connections_are_kept_for_the_next_prediction(direct: Direct, stub: Stub) -> None:
    stub.script(direct.route, GOOD)
    platform = direct.make(stub.address)
    for _ in range(3):
        platform.predict(FLOWER, call())
    assert (stub.connections, stub.count(direct.route)) == (1, 3)


def test_a_stopped_call_closes_its_connection_at_once(direct: Direct, stub: Stub) -> None:
    stub.script(direct.route, hangs)
    canceled = call(60)
    stub.when_asked(direct.route, lambda: canceled.stop(StopReason.CANCELED))
    with pytest.raises(CallStopped) as stopped:
        direct.make(stub.address, timeout=60).predict(FLOWER, canceled)
    assert stopped.value.reason is StopReason.CANCELED
    assert stub.hung_up.wait(5)


def test_a_call_that_was_stopped_before_sends_nothing(direct: Direct, stub: Stub) -> None:
    canceled = call()
    canceled.stop(StopReason.SHUTDOWN)
    with pytest.raises(CallStopped):
        direct.make(stub.address).predict(FLOWER, canceled)
    assert not stub.received


def test_stopping_one_of_many_calls_breaks_no_other(direct: Direct, stub: Stub) -> None:
    stub.script(direct.route, GOOD)
    platform = direct.make(stub.address)
    outcomes: list[object] = []

    def predict_often() -> None:
        for _ in range(20):
            mine = call()
            threading.Thread(target=mine.stop, args=(StopReason.CANCELED,), daemon=True).start()
            try:
                outcomes.append(platform.predict(FLOWER, mine).outputs)
            except CallStopped:
                outcomes.append("stopped")

    threads = [threading.Thread(target=predict_often, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 80
    assert all(one in ("stopped", {"predictions": [1]}) for one in outcomes)
