"""The text generator as a predictor: continues a prompt word by word."""

import json
import random
import time
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from examples.text.chain import LONGEST_CONTEXT, MODEL_FILE, Model, words_of

MOST_WORDS = 1_000
SLOWEST_SECONDS = 5.0
PROMPT = "The keeper"
MAX_WORDS = 60
SECONDS_PER_WORD = 0.05


@lru_cache(maxsize=1)
def model_in_use() -> Model:
    model: Model = json.loads(MODEL_FILE.read_text(encoding="utf-8"))
    return model


def generate(model_name: str, inputs: dict[str, Any]) -> Iterator[str]:
    """Yield the prompt and up to `max_words` words that continue it, one piece for each word.

    `seed` makes the text repeatable and `seconds_per_word` slows it down. Raises ValueError, with a sentence that says
    what to send, if the inputs cannot be used.
    """
    prompt = inputs.get("prompt", PROMPT)
    if not isinstance(prompt, str):
        raise ValueError('Send "prompt" as a text, such as "The keeper", or leave it out.')
    max_words = int(_number(inputs, "max_words", MAX_WORDS, MOST_WORDS))
    pause = _number(inputs, "seconds_per_word", SECONDS_PER_WORD, SLOWEST_SECONDS)
    seed = inputs.get("seed")
    choose = random.Random(None if seed is None else json.dumps(seed))
    yield prompt
    words = words_of(prompt)
    for _ in range(max_words):
        time.sleep(pause)
        word = next_word(words[-LONGEST_CONTEXT:], choose)
        words.append(word)
        yield word if word in ".,;:!?" else f" {word}"


def next_word(context: list[str], choose: random.Random) -> str:
    """Return a word that followed the context in training; of an unknown context, forgets its first words."""
    model = model_in_use()
    while " ".join(context) not in model:
        context = context[1:]
    followers = model[" ".join(context)]
    return choose.choices(list(followers), weights=list(followers.values()))[0]


def docs(model_name: str) -> dict[str, Any]:
    """Return a description of the inputs, each with its type and default, whatever the model's name."""
    return {
        "prompt": {"type": "text", "description": "The beginning of the text.", "default": PROMPT},
        "max_words": {
            "type": f"whole number from 0 to {MOST_WORDS}",
            "description": "How many words and punctuation marks to add.",
            "default": MAX_WORDS,
        },
        "seconds_per_word": {
            "type": f"number of seconds from 0 to {SLOWEST_SECONDS:g}",
            "description": "How long to wait before each word, so that a stream can be watched.",
            "default": SECONDS_PER_WORD,
        },
        "seed": {"type": "any", "description": "The same seed gives the same text.", "default": None},
    }


def _number(inputs: dict[str, Any], name: str, default: float, largest: float) -> float:
    value = inputs.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= largest:
        raise ValueError(f'Send "{name}" as a number from 0 to {largest:g}, or leave it out.')
    return value
