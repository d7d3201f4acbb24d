"""The text generator's model file and how it splits a text into words."""

import re
from pathlib import Path

MODEL_FILE = Path(__file__).with_name("model.json")
LONGEST_CONTEXT = 2

Model = dict[str, dict[str, int]]
"""Context (the last 0 to LONGEST_CONTEXT words, joined by blanks) → next word → how often it followed."""


def words_of(text: str) -> list[str]:
    """Words and punctuation marks, in the order of the text."""
    return re.findall(r"[A-Za-z']+|[.,;:!?]", text)
