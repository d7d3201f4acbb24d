"""A local model that takes any inputs and answers them; `slowly` gives its caller the time to cancel."""

import time
from collections.abc import Mapping
from typing import Any


def predict(model_name: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {"inputs": dict(inputs)}


def slowly(model_name: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    time.sleep(1)
    return predict(model_name, inputs)


def docs(model_name: str) -> dict[str, Any]:
    return {"anything": {"type": "any"}}
