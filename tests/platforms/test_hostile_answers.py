"""A platform that answers to do harm: the call ends with an error, and the next one is served."""

import gzip
from typing import Any

import pytest

from platforms import PlatformError, Prediction
from tests.platforms.makers import FLOWER, K8S, KSERVE, REPLICATE, RUNPOD, Cloud, Direct, call
from tests.platforms.stub import Step, Stub, answers, head, says, sends, streams

DIRECT, CLOUDS = [KSERVE, K8S], [REPLICATE, RUNPOD]
DEEP = b"[" * 100_000 + b"]" * 100_000
DEEPER_THAN_ALLOWED = b'{"a":' * 101 + b"0" + b"}" * 101
WIDE = b"[" + b"{}," * 1_000_001 + b"0]"
LONG_NUMBER = b"9" * 1_000_000
TWICE_COMPRESSED = gzip.compress(gzip.compress(b'"' + b"x" * 50_000_000 + b'"'))
HOSTILE: dict[str, Step] = {
    "100,000 levels": says(DEEP, content_type="application/json"),
    "101 levels": says(DEEPER_THAN_ALLOWED, content_type="application/json"),
    "a million objects": says(WIDE, content_type="application/json"),
    "a million digits": says(LONG_NUMBER, content_type="application/json"),
    "compressed twice": says(TWICE_COMPRESSED, content_type="application/json", content_encoding="gzip, gzip"),
    "no gzip": says(b"x", content_type="application/json", content_encoding="gzip"),
    "a thousand headers": sends(head(200, {f"X-{n}": "y" for n in range(1000)})),
    "a long header": sends(head(200, {"X": "y" * 1_000_000})),
    "no HTTP": sends(b"\x00\xff" * 1000 + b"\r\n\r\n"),
    "a status that is none": sends(b"HTTP/1.1 9999999999 OK\r\n\r\n"),
    "a redirect": sends(
        b"HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"
    ),
}


@pytest.mark.parametrize("direct", DIRECT, ids=lambda direct: direct.route)
@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_answer_is_an_error_and_the_next_call_is_served(stub: Stub, direct: Direct, how: str) -> None:
    stub.script(direct.route, HOSTILE[how], answers({"predictions": [1]}))
    platform = direct.make(stub.address, max_response_bytes=10_000_000)
    with pytest.raises(PlatformError) as error:
        platform.predict(FLOWER, call())
    assert len(str(error.value)) < 200
    assert platform.predict(FLOWER, call()).outputs == {"predictions": [1]}


@pytest.mark.parametrize("cloud", CLOUDS, ids=lambda cloud: cloud.submit)
@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_answer_to_a_submission_is_an_error(stub: Stub, cloud: Cloud, how: str) -> None:
    stub.script(cloud.submit, HOSTILE[how])
    with pytest.raises(PlatformError):
        cloud.make(stub.address, max_response_bytes=10_000_000).predict(FLOWER, call())


@pytest.mark.parametrize("cloud", CLOUDS, ids=lambda cloud: cloud.submit)
@pytest.mark.parametrize("how", sorted(set(HOSTILE) - {"compressed twice", "a redirect"}))
def test_a_hostile_answer_to_a_poll_is_asked_again(stub: Stub, cloud: Cloud, how: str) -> None:
    cloud.script(stub, HOSTILE[how], cloud.job("succeeded", output="fine"))
    platform = cloud.make(stub.address, max_response_bytes=10_000_000)
    assert platform.predict(FLOWER, call()).outputs == "fine"


@pytest.mark.parametrize("how", ["100,000 levels", "101 levels", "a million digits"])
def test_a_line_of_a_stream_is_passed_on_as_text_where_it_is_no_message(stub: Stub, how: str) -> None:
    line = {"100,000 levels": DEEP, "101 levels": DEEPER_THAN_ALLOWED, "a million digits": LONG_NUMBER[:900_000]}[how]
    stub.script(KSERVE.route, streams(line + b"\n"))
    platform = KSERVE.make(stub.address)
    chunks = list(platform.stream(FLOWER, call()))
    assert [chunk.data for chunk in chunks] == [line.decode()]


def test_inputs_that_nobody_could_read_are_refused_before_they_are_sent(stub: Stub) -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for direct in DIRECT:
        with pytest.raises(PlatformError, match="inputs"):
            direct.make(stub.address).predict(Prediction("iris", {"x": deep}), call())
    assert not stub.received
