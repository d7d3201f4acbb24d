"""Parses untrusted JSON within bounds on depth, size and numbers."""

import json
import math
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

import orjson

DEEPEST = 100
"""Levels of arrays and objects: more than any model needs, and less than whatever recurses into them can bear."""
MOST_CONTAINERS = 1_000_000
"""Arrays and objects in one text. Each takes some 100 bytes of memory, however few it takes to write."""


class Malformed(ValueError):
    """The text is no JSON, or not such as is read here. The message goes on from "the body" or "the answer"."""


class NotJSON(Malformed):
    """The text is something else altogether."""


def parse(content: bytes | bytearray, *, not_a_number: Callable[[str], Any], wrapping: int = 0) -> Any:
    """The value of a JSON text in UTF-8; of an object's equal names the last counts. Raises Malformed.

    `not_a_number` replaces `NaN`, `Infinity` and numbers that Python would read as infinite.
    `wrapping` allows that many levels and objects more than the bounds.
    """
    containers = content.count(b"{") + content.count(b"[")
    if containers > MOST_CONTAINERS + wrapping:
        raise Malformed(f"has more than {MOST_CONTAINERS:,} arrays and objects")
    try:
        value = _decoder(not_a_number).decode(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise NotJSON("is not UTF-8") from error
    except RecursionError as error:
        raise Malformed("is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise NotJSON(f"is not JSON: {error}") from error
    except Malformed:
        raise
    except ValueError as error:  # Python's bound on the digits of an integer
        raise Malformed("has a number with too many digits") from error
    if containers > DEEPEST + wrapping and is_deeper_than(DEEPEST + wrapping, value):
        raise Malformed("is nested too deeply")
    return value


@lru_cache(maxsize=16)
def _decoder(not_a_number: Callable[[str], Any]) -> json.JSONDecoder:
    def finite(text: str) -> Any:
        return number if math.isfinite(number := float(text)) else not_a_number(text)

    return json.JSONDecoder(parse_constant=not_a_number, parse_float=finite)


def as_none(text: str) -> None:
    """Replaces a number that is none instead of refusing the document."""


def dumps(value: Any) -> bytes:
    """A value that was read here, as compact JSON in UTF-8; as ASCII where it has half a surrogate pair in it."""
    try:
        return orjson.dumps(value)
    except TypeError:  # that, or an integer of more than 64 bits
        return json.dumps(value, separators=(",", ":")).encode()


def is_deeper_than(levels: int, value: Any) -> bool:
    """Whether arrays and objects are nested in more than so many levels."""
    layer = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        layer = [
            inner
            for outer in layer
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return bool(layer)


def loads(content: bytes | bytearray) -> Any:
    """JSON as platforms write it: NaN and infinite numbers become None. Raises Malformed."""
    return parse(content, not_a_number=as_none)


def loads_or_none(content: bytes | bytearray) -> Any:
    with suppress(Malformed):
        return loads(content)
    return None


def words_of(said: Any, *, depth: int = 6) -> str:
    """The message in a platform's error, "" if it has none.

    `error_message` is RunPod's (inside an `error` that is itself JSON, beside a traceback and a host name), `error`
    KServe's, `detail` FastAPI's (there a list of `msg`) and RFC 7807's.
    """
    if depth == 0:
        return ""
    if isinstance(said, str):
        return words_of(loads_or_none(said.encode(errors="replace")), depth=depth - 1) if "{" in said[:1] else said
    if isinstance(said, list):
        return words_of(said[0], depth=depth - 1) if said else ""
    if isinstance(said, dict):
        keys = ("error_message", "error", "detail", "message", "msg", "title")
        return next(filter(None, (words_of(said.get(key), depth=depth - 1) for key in keys)), "")
    return ""
