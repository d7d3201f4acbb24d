"""The slow platform's answers, so that tests can match every output to its inputs."""

from typing import Any


def answer_to(inputs: dict[str, Any]) -> Any:
    """The body of the platform's answer: `inputs.body`, or else the number in the inputs."""
    return inputs.get("body", {"n": inputs.get("n")})


def pieces_of(inputs: dict[str, Any]) -> list[str]:
    """The streamed pieces; each names the inputs it belongs to."""
    return [f"piece {number} of {inputs.get('n')} " for number in range(inputs["pieces"])]


def outputs_of(inputs: dict[str, Any]) -> Any:
    """The outputs in the task's record."""
    return "".join(pieces_of(inputs)) if "pieces" in inputs else answer_to(inputs)
