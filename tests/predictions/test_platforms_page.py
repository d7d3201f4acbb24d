"""docs/platforms.md: its settings, hosts and requests work, and callers get the answers it describes."""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from rest_framework.test import APIClient

from predictions.models import Task
from tests.helpers import makers
from tests.helpers.api import predict, submit
from tests.helpers.manage import check
from tests.helpers.pages import PLATFORMS as PAGE
from tests.helpers.pages import README, table, word
from tests.helpers.settings import SETTINGS
from tests.helpers.stub import Step, Stub, answers, closed_port, hangs, says

PREDICT = "POST /v1/models/iris:predict"
WORDS = "X has 2 features, but SVC is expecting 4 features"
ROWS = [row[0] for row in table("the caller gets", PAGE)]
"""Status and code, and then a sentence in quotation marks, or the model server's own words."""

# The start of a row → the server at KSERVE_ADDRESS; None: none
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


def shown(beginning: str) -> str:
    """The page's block of shell that begins so."""
    (block,) = re.findall(rf"```sh\n({re.escape(beginning)}.*?)```", PAGE, re.DOTALL)
    return str(block)


def settings_of(platform: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in shown(f"ML_PLATFORM={platform}\n").splitlines())


@pytest.mark.parametrize("platform", ["kserve", "k8s", "replicate", "runpod"])
def test_the_settings_that_the_page_shows_are_enough_to_start(platform: str) -> None:
    status, said = check(**settings_of(platform))
    assert status == 0, said


@pytest.mark.parametrize("row", table("your model runs on", README), ids=lambda row: row[0])
def test_the_settings_in_each_row_of_the_readme_are_enough_to_start(row: list[str]) -> None:
    status, said = check(**dict(setting.split("=", 1) for setting in re.findall(r"`([^`]+)`", row[1])))
    assert status == 0, said


@pytest.mark.parametrize("row", table("how the model is deployed", PAGE), ids=lambda row: row[0])
def test_each_template_of_the_page_gives_the_host_beside_it(stub: Stub, row: list[str]) -> None:
    documented = settings_of("kserve")
    platform = makers.kserve(stub.address, host_template=word(row[2]))
    platform.namespace, platform.domain = documented["KSERVE_NAMESPACE"], documented["KSERVE_CUSTOM_DOMAIN"]
    platform.check("sklearn-iris", makers.call())
    assert stub.received[0].headers["host"] == urlsplit(word(row[1])).hostname
    assert ("(the default)" in row[2]) == (word(row[2]) == SETTINGS["KSERVE_HOST_TEMPLATE"])


def test_the_request_that_the_page_shows_reaches_the_model_with_its_inputs_as_they_are(
    client: APIClient, stub: Stub, configured: Callable[..., None], settings: Any
) -> None:
    documented = settings_of("kserve")
    path, arguments = settings.PLATFORMS["kserve"]
    placed = {"namespace": documented["KSERVE_NAMESPACE"], "domain": documented["KSERVE_CUSTOM_DOMAIN"]}
    known = {**arguments, **placed, "address": stub.address}
    configured(ML_PLATFORM="kserve", PLATFORMS={"kserve": (path, known)})
    stub.script("POST /v1/models/sklearn-iris:predict", answers({"predictions": [1]}))
    _, url, _, header, _, body = shlex.split(shown("curl").replace("\\\n", ""))
    content_type = header.removeprefix("Content-Type: ")
    answer = client.generic("POST", urlsplit(url).path, body, content_type=content_type)
    assert answer.json()["outputs"] == {"predictions": [1]}
    (asked,) = stub.received
    assert asked.headers["host"] == "sklearn-iris.models.example.com"
    sent = asked.json
    assert sent.pop("upload_webhook")
    assert sent == json.loads(body)["inputs"]


def test_a_callables_module_describes_its_inputs(client: APIClient) -> None:
    assert client.get("/v1/docs", {"model_name": "m"}).json() == {"answer": {"type": "any"}}


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


def test_the_time_limit_holds_for_async_predictions_too(
    client: APIClient, kserve: Callable[[Step | None], None], work: Callable[..., Any]
) -> None:
    kserve(hangs)
    submit(client)
    work()
    assert (Task.objects.get().status, "did not answer in time" in Task.objects.get().error_info) == ("failed", True)


def test_the_table_explains_every_situation() -> None:
    assert {start for start in SITUATIONS for row in ROWS if row.startswith(start)} == set(SITUATIONS)
