"""What the tests' slow platform answers to which inputs, so that every output can be held against its own inputs."""

from typing import Any


def answer_to(inputs: dict[str, Any]) -> Any:
    """The body of the platform's answer: the number in the inputs, unless they say what is to be answered."""
    return inputs.get("body", {"n": inputs.get("n")})


def pieces_of(inputs: dict[str, Any]) -> list[str]:
    """The pieces that are streamed; each names the inputs it belongs to."""
    return [f"piece {number} of {inputs.get('n')} " for number in range(inputs["pieces"])]


def outputs_of(inputs: dict[str, Any]) -> Any:
    """The outputs on the record."""
    return "".join(pieces_of(inputs)) if "pieces" in inputs else answer_to(inputs)
