"""The text generator of the first run."""

import json
from pathlib import Path
from typing import Any

import pytest

from examples import models
from examples.text import chain, docs, generate, train
from examples.text.model import PROMPT


def text_of(**inputs: Any) -> str:
    return "".join(generate("text", {"seconds_per_word": 0, **inputs}))


def test_the_model_file_is_what_training_on_the_data_gives(tmp_path: Path) -> None:
    train.main(["--output", str(tmp_path / "model.json")])
    assert (tmp_path / "model.json").read_text() == chain.MODEL_FILE.read_text()


def test_it_learns_another_text(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("to be or not to be")
    train.main(["--data", str(tmp_path / "text.txt"), "--output", str(tmp_path / "model.json")])
    assert json.loads((tmp_path / "model.json").read_text())["to be"] == {"or": 1}


def test_it_continues_a_prompt_with_words_that_followed_each_other() -> None:
    words = chain.words_of(text_of(prompt="The girl", max_words=200, seed=1))
    assert words[:2] == ["The", "girl"]
    assert len(words) == 202
    known = chain.words_of(train.DATA_FILE.read_text())
    pairs = set(zip(known, known[1:], strict=False))
    assert set(zip(words, words[1:], strict=False)) <= pairs


def test_a_seed_makes_the_text_repeatable() -> None:
    assert text_of(seed="a") == text_of(seed="a") != text_of(seed="b")


@pytest.mark.parametrize("prompt", ["", "Zebras quietly", "日本"])
def test_a_prompt_of_unknown_words_is_continued_too(prompt: str) -> None:
    text = text_of(prompt=prompt, max_words=5)
    assert text.startswith(prompt)
    assert len(text) > len(prompt)


@pytest.mark.parametrize(
    "inputs", [{"prompt": 7}, {"max_words": 1001}, {"max_words": True}, {"seconds_per_word": "1"}, {"max_words": -1}]
)
def test_wrong_inputs_are_refused_with_what_to_send(inputs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match='Send "'):
        text_of(**inputs)


def test_the_documented_defaults_are_the_inputs_of_an_empty_request() -> None:
    defaults = {name: about["default"] for name, about in docs("text").items()}
    assert defaults["prompt"] == PROMPT
    assert text_of(**{**defaults, "seconds_per_word": 0, "seed": 1}) == text_of(seed=1)


def test_the_first_run_has_both_examples() -> None:
    assert sorted(models) == ["iris", "text"]
