"""Trains the text generator: run `python -m examples.text.train` to write model.json again."""

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from examples.text.chain import LONGEST_CONTEXT, MODEL_FILE, Model, words_of

DATA_FILE = Path(__file__).with_name("data") / "lighthouse.txt"


def train(text: str) -> Model:
    """Counts which word follows each context of up to LONGEST_CONTEXT words."""
    words = words_of(text)
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for place, word in enumerate(words):
        for length in range(min(LONGEST_CONTEXT, place) + 1):
            counts[" ".join(words[place - length : place])][word] += 1
    return {context: dict(sorted(followers.items())) for context, followers in sorted(counts.items())}


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains the model and writes it. Raises OSError if a file cannot be read or written."""
    parser = argparse.ArgumentParser(prog="python -m examples.text.train", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA_FILE, help="the text to learn from (UTF-8)")
    parser.add_argument("--output", type=Path, default=MODEL_FILE, help="where to write the model")
    options = parser.parse_args(arguments)
    model = train(options.data.read_text(encoding="utf-8"))
    options.output.write_text(json.dumps(model, indent=0) + "\n", encoding="utf-8")
    print(f"Learned {len(model[''])} words in {len(model)} contexts; wrote {options.output.name}")


if __name__ == "__main__":
    main()
