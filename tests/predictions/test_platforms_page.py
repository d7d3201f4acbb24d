"""docs/platforms.md: callers get the answers that its table about KServe explains."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rest_framework.test import APIClient

from tests.platforms.stub import Step, Stub, answers, closed_port, hangs, says
from tests.predictions.test_sync import predict
from tests.test_docs import ROOT, table

PREDICT = "POST /v1/models/iris:predict"
WORDS = "X has 2 features, but SVC is expecting 4 features"
PAGE = (ROOT / "docs/platforms.md").read_text()
ROWS = [row[0] for row in table("the caller gets", PAGE)]
"""Status and code, and then a sentence in quotation marks, or the model server's own words."""

# The start of a row → what stands at KSERVE_ADDRESS; None: nothing
SITUATIONS: dict[str, Step | None] = {
    '502 `platform_error`: "': None,
    '400 `invalid_inputs`: "': says(b"<html>404 Not Found</html>", status=404, content_type="text/html"),
    "400 `invalid_inputs`: the": answers({"error": WORDS}, status=400),
    "502 `platform_error`: the": answers({"error": WORDS}, status=500),
    '504 `platform_timeout`: "': hangs,
}


@pytest.fixture
def stub() -> Iterator[Stub]:
    one = Stub()
    yield one
    one.close()


@pytest.fixture
def kserve(stub: Stub, configured: Callable[..., None], settings: Any) -> Callable[[Step | None], None]:
    """Puts a step, or nothing, where KServe would be; a prediction may take a second."""

    def stands(step: Step | None) -> None:
        address = stub.address if step else f"127.0.0.1:{closed_port()}"
        if step:
            stub.script(PREDICT, step)
        path, arguments = settings.PLATFORMS["kserve"]
        changed = {**arguments, "address": address, "timeout_seconds": 1.0}
        configured(ML_PLATFORM="kserve", PLATFORMS={**settings.PLATFORMS, "kserve": (path, changed)})

    return stands


def situation(row: str) -> Step | None:
    (step,) = [step for start, step in SITUATIONS.items() if row.startswith(start)]
    return step


@pytest.mark.parametrize("row", ROWS)
def test_a_caller_gets_the_answer_that_the_table_explains(
    client: APIClient, kserve: Callable[[Step | None], None], row: str
) -> None:
    kserve(situation(row))
    response = predict(client)
    status, code = re.findall(r"(\d+) `(\w+)`", row)[0]
    sentence = re.search('"(?:… )?(.*)"', row)
    assert (response.status_code, response.json()["code"]) == (int(status), code)
    assert (sentence[1] if sentence else WORDS) in response.json()["error"]


def test_the_table_explains_every_situation() -> None:
    assert {start for start in SITUATIONS for row in ROWS if row.startswith(start)} == set(SITUATIONS)
