"""JSON of strangers."""

import json
import math
from typing import Any

import pytest

from platforms.parsing import DEEPEST, MOST_CONTAINERS, Malformed, NotJSON, as_none, dumps, is_deeper_than, parse


def read(content: bytes) -> Any:
    return parse(content, not_a_number=lambda text: f"not a number: {text}")


def nested(levels: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening * levels + closing * levels


def test_valid_json_is_read() -> None:
    assert read('{"ä": [1, -2.5e3, true, null, "\\u0000\\ud800"]}'.encode()) == {
        "ä": [1, -2500.0, True, None, "\0\ud800"]
    }
    assert read(b"\xef\xbb\xbf[1]") == [1]
    assert read(bytearray(b"7")) == 7


def test_the_last_of_equal_names_counts() -> None:
    assert read(b'{"a": 1, "b": 2, "a": 3}') == {"a": 3, "b": 2}


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"NaN", "NaN"), (b"-Infinity", "-Infinity"), (b"1e999999", "1e999999"), (b"[-1e400]", "-1e400")],
)
def test_nan_and_infinity_are_left_to_the_reader(content: bytes, text: str) -> None:
    value = read(content)
    assert (value[0] if isinstance(value, list) else value) == f"not a number: {text}"
    assert math.isinf(float(text)) or math.isnan(float(text))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (nested(100_000), "is nested too deeply"),
        (nested(100_000, b'{"a":', b"}").replace(b":}", b":0}", 1), "is nested too deeply"),
        (nested(DEEPEST + 1), "is nested too deeply"),
        (b'{"a":' * DEEPEST + b"[]" + b"}" * DEEPEST, "is nested too deeply"),
        (b"[" * 100_000, "is nested too deeply"),
        (b"9" * 1_000_000, "has a number with too many digits"),
        (b"[" + b"{}," * MOST_CONTAINERS + b"0]", "has more than 1,000,000 arrays and objects"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_oversized_json_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        read(content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1,]",
        b"'a'",
        b"\x00",
        b'"\x00"',
        b'"\xff"',
        b'"\xed\xa0\x80"',  # half a surrogate pair, as bytes
        b'"\xc0\xaf"',  # an overlong slash
        json.dumps({"a": 1}).encode("utf-16"),
        json.dumps({"a": 1}).encode("utf-32"),
    ],
)
def test_invalid_json_is_refused(content: bytes) -> None:
    with pytest.raises(NotJSON):
        read(content)


def test_known_wrapping_does_not_count_towards_the_limits() -> None:
    for content in (nested(DEEPEST + 2), b"[[" + b"[]," * MOST_CONTAINERS + b"0]]"):
        with pytest.raises(Malformed):
            read(content)
        assert parse(content, not_a_number=str, wrapping=2)


def test_the_bounds_are_wide_enough() -> None:
    assert read(nested(DEEPEST)) is not None
    assert len(read(b"[" + b"[5.1,3.5]," * 200_000 + b"0]")) == 200_001
    assert read(json.dumps("[{" * 10_000).encode()) == "[{" * 10_000
    assert read(b"9" * 4000) == int("9" * 4000)


@pytest.mark.parametrize(
    ("value", "levels"), [(7, 0), ([], 1), ({}, 1), ([1, [2]], 2), ({"a": [{}]}, 3), ([[], {"a": {"b": []}}], 4)]
)
def test_levels_are_counted(value: Any, levels: int) -> None:
    assert not is_deeper_than(levels, value)
    assert levels == 0 or is_deeper_than(levels - 1, value)


@pytest.mark.parametrize(
    "value", [{"a": [1, 2.5, None, True, "ä\u0000"]}, "\ud800 is half a character", 2**70, -(2**70), ""]
)
def test_a_parsed_value_survives_a_round_trip(value: object) -> None:
    assert parse(dumps(value), not_a_number=as_none) == value
