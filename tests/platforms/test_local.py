"""The local platform: functions, functions that yield, and dicts of functions."""

import threading
import time
from contextlib import suppress
from typing import Any

import pytest

from platforms import Call, CallStopped, InvalidInputs, PlatformTimeout, Prediction, StopReason, Unsupported
from platforms.local import Local
from tests.helpers import streaming_predictor

MODELS = Local(predictor="tests.helpers.streaming_predictor:models", timeout_seconds=10)


@pytest.fixture(autouse=True)
def _nothing_closed() -> None:
    streaming_predictor.closed.clear()


def call() -> Call:
    return Call(timeout_seconds=10)


def pieces_of(model_name: str, **inputs: Any) -> list[tuple[int, str]]:
    return [(chunk.id, chunk.data) for chunk in MODELS.stream(Prediction(model_name, inputs), call())]


@pytest.mark.parametrize("model_name", ["words", "async"])
def test_a_function_that_yields_streams_its_pieces(model_name: str) -> None:
    assert pieces_of(model_name, words=["one", " two"]) == [(0, "one"), (1, " two")]


def test_a_piece_that_is_no_text_is_written_as_json() -> None:
    assert pieces_of("objects") == [(0, '{"step": 1}'), (1, "[2, null]")]


@pytest.mark.parametrize(
    ("model_name", "inputs", "outputs"),
    [
        ("words", {"words": ["one", " two"]}, "one two"),
        ("async", {"words": ["one", " two"]}, "one two"),
        ("words", {"words": []}, ""),
        ("objects", {}, [{"step": 1}, [2, None]]),
        ("plain", {"answer": 7}, 7),
    ],
)
def test_a_prediction_gets_all_pieces(model_name: str, inputs: dict[str, Any], outputs: Any) -> None:
    assert MODELS.predict(Prediction(model_name, inputs), call()).outputs == outputs


def test_a_piece_is_yielded_before_the_next_one_is_made() -> None:
    stream = MODELS.stream(Prediction("words", {"words": ["one", "bad"]}), call())
    assert next(stream).data == "one"
    with pytest.raises(InvalidInputs, match="bad is not a word"):
        next(stream)


def test_a_stop_at_the_very_end_of_a_prediction_does_not_hit_the_code_after_it() -> None:
    for _ in range(300):
        stopped = call()
        stopper = threading.Thread(target=stopped.stop, args=[StopReason.CANCELED])
        with suppress(CallStopped):
            stopper.start()
            MODELS.predict(Prediction("plain", {"answer": 7}), stopped)
        stopper.join()
        assert sum(range(1000)) == 499_500  # a late exception would come here


def test_a_model_may_catch_its_interruption_and_still_return() -> None:
    stopped = call()
    threading.Timer(0.1, stopped.stop, args=[StopReason.CANCELED]).start()
    began = time.monotonic()
    MODELS.predict(Prediction("stubborn", {}), stopped)
    assert time.monotonic() - began >= 0.1
    assert sum(range(1000)) == 499_500


def test_a_function_that_does_not_yield_is_not_called_for_a_stream() -> None:
    with pytest.raises(Unsupported, match="plain cannot stream"):
        pieces_of("plain", answer=7)
    assert streaming_predictor.closed == []


def test_closing_a_stream_closes_the_functions_generator() -> None:
    stream = MODELS.stream(Prediction("words", {"words": ["one", "two"]}), call())
    next(stream)
    stream.close()
    assert streaming_predictor.closed == ["words"]


def test_a_stopped_stream_ends_while_it_waits_for_a_piece() -> None:
    stopped = call()
    stream = MODELS.stream(Prediction("words", {"words": ["one"] * 1000, "pause": 0.01}), stopped)
    next(stream)
    threading.Timer(0.1, stopped.stop, args=[StopReason.CANCELED]).start()
    with pytest.raises(CallStopped):
        for _ in stream:
            pass
    assert streaming_predictor.closed == ["words"]


def test_a_stream_has_the_platforms_timeout_for_all_its_pieces() -> None:
    platform = Local(predictor="tests.helpers.streaming_predictor:models", timeout_seconds=0.3)
    began = time.monotonic()
    with pytest.raises(PlatformTimeout):
        for _ in platform.stream(Prediction("words", {"words": ["one"] * 1000, "pause": 0.01}), call()):
            pass
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize("ask", [MODELS.predict, lambda *args: next(MODELS.stream(*args))], ids=["predict", "stream"])
def test_an_unknown_model_is_refused_with_the_names_of_the_known_ones(ask: Any) -> None:
    with pytest.raises(InvalidInputs, match="the models are: async, objects, plain, stubborn, words"):
        ask(Prediction("nope", {}), call())


def test_the_input_documentation_of_a_model_is_that_of_its_functions_module() -> None:
    assert MODELS.models() == ["async", "objects", "plain", "stubborn", "words"]
    assert MODELS.docs("words", call())["words"]["default"] == ["a"]
    assert Local(predictor="tests.helpers.streaming_predictor:words", timeout_seconds=1).models() == []
