"""Local models for the tests: their inputs tell them how to behave, and `calls` lists their calls."""

import builtins
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

calls: list[dict[str, Any]] = []
lock = threading.Lock()
gate = threading.Event()
"""`{"wait": true}` blocks until this is set."""


def predict(model_name: str, inputs: Mapping[str, Any]) -> Any:
    with lock:
        calls.append({"model_name": model_name, **inputs})
    if inputs.get("wait"):
        while not gate.is_set():
            time.sleep(0.005)
    if seconds := inputs.get("sleep"):
        time.sleep(seconds)
    if error := inputs.get("raise"):
        raise getattr(builtins, error)(inputs.get("message", "no"))
    if "answer" in inputs:
        return inputs["answer"]
    return {"echo": dict(inputs)}


def docs(model_name: str) -> dict[str, Any]:
    return {"answer": {"type": "any"}}


def wait_for_a_file(model_name: str, inputs: Mapping[str, Any]) -> None:
    """Waits until the file `begin` is there, and then makes the file `end`."""
    while not Path(inputs["begin"]).exists():
        time.sleep(0.01)
    Path(inputs["end"]).touch()


def compute(model_name: str, inputs: Mapping[str, Any]) -> int:
    """Uses the processor, and nothing that would let other threads in by itself."""
    end = time.monotonic() + inputs["seconds"]
    rounds = 0
    while time.monotonic() < end:
        rounds += 1
    return rounds
