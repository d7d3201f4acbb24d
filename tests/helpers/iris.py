"""The iris example's page and errors."""

from pathlib import Path
from typing import Any

import pytest

import examples.iris
from examples.iris import predict

ROOT = Path(examples.iris.__file__).parents[2]
README = (ROOT / "examples/iris/README.md").read_text()


def refusal_of(inputs: Any) -> str:
    with pytest.raises(ValueError) as caught:
        predict("iris", inputs)
    return str(caught.value)
