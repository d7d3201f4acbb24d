"""A platform that answers to do harm: the call ends with an error, and the next one is served."""

from typing import Any

import pytest

from platforms import PlatformError, Prediction
from tests.helpers.hostile_answers import DEEP, DEEPER_THAN_ALLOWED, HOSTILE, LONG_NUMBER
from tests.helpers.makers import FLOWER, K8S, KSERVE, REPLICATE, RUNPOD, Cloud, Direct, call
from tests.helpers.stub import Stub, answers, streams

DIRECT, CLOUDS = [KSERVE, K8S], [REPLICATE, RUNPOD]


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
def test_a_poll_with_a_hostile_answer_is_repeated(stub: Stub, cloud: Cloud, how: str) -> None:
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


def test_inputs_nested_too_deeply_are_refused_before_they_are_sent(stub: Stub) -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for direct in DIRECT:
        with pytest.raises(PlatformError, match="inputs"):
            direct.make(stub.address).predict(Prediction("iris", {"x": deep}), call())
    assert not stub.received
