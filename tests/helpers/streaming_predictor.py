"""Local models that yield their outputs."""

import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

closed: list[str] = []


def words(model_name: str, inputs: Mapping[str, Any]) -> Iterator[str]:
    """Yields `words`, with `pause` seconds before each; raises ValueError at the word `bad`."""
    try:
        for word in inputs["words"]:
            time.sleep(inputs.get("pause", 0))
            if word == "bad":
                raise ValueError("bad is not a word")
            yield word
    finally:
        closed.append(model_name)


async def async_words(model_name: str, inputs: Mapping[str, Any]) -> AsyncIterator[str]:
    for word in inputs["words"]:
        yield word


def objects(model_name: str, inputs: Mapping[str, Any]) -> Iterator[Any]:
    yield {"step": 1}
    yield [2, float("nan")]


def plain(model_name: str, inputs: Mapping[str, Any]) -> Any:
    """Yields nothing: it cannot be streamed."""
    closed.append(model_name)
    return inputs["answer"]


def stubborn(model_name: str, inputs: Mapping[str, Any]) -> str:
    """Works until it is interrupted, and returns a result all the same."""
    try:
        while True:
            time.sleep(0.01)
    except BaseException:
        return "a result"


def docs(model_name: str) -> dict[str, Any]:
    return {"words": {"type": "list of texts", "default": ["a"]}}


models = {"words": words, "async": async_words, "objects": objects, "plain": plain, "stubborn": stubborn}
