"""Every error that the document has for a route is brought about there, and answered as documented."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.utils.timezone import now
from rest_framework.views import APIView

from config.settings import PLATFORMS
from predictions import submission
from predictions.api.serializers import TASK_ID
from predictions.models import Task
from predictions.uploads import upload_address
from tests.helpers.document import KEYS, OPERATIONS, Operation, operation
from tests.helpers.proxy import Proxy
from tests.helpers.stub import Step, Stub, Visit, answers, hangs

ANY_MODEL = ("POST /v1/models/iris:predict", "POST /v1/models/writer:predict", "GET /v1/docs/iris")


def errors() -> list[tuple[Operation, int, str]]:
    return [
        (found, status, code)
        for found in OPERATIONS
        for (status, _), media in found.answers(successes=False).items()
        for code in codes(media)
    ]


def codes(media: dict[str, Any]) -> list[str]:
    return [example["value"]["code"] for example in media["examples"].values()]


def example_of(asked: Operation, status: int, code: str) -> dict[str, Any]:
    examples = asked.told["responses"][str(status)]["content"]["application/json"]["examples"].values()
    found: dict[str, Any] = next(example["value"] for example in examples if example["value"]["code"] == code)
    return found


@pytest.fixture
def model() -> Iterator[Stub]:
    stub = Stub()
    yield stub
    stub.close()


@pytest.fixture
def provoke(
    configured: Callable[..., None], model: Stub, redis_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Operation, str], Any]:
    """Sends an operation's example under what makes it fail with a code; the answer."""

    def on_kserve(step: Step) -> None:
        for route in ANY_MODEL:
            model.script(route, step)
        name, arguments = PLATFORMS["kserve"]
        arguments = {**arguments, "address": model.address}
        configured(ML_PLATFORM="kserve", PLATFORMS={"kserve": (name, arguments)})

    def refused_by_the_model(asked: Operation) -> Any:
        on_kserve(answers({"error": "send four numbers"}, status=400))
        return asked.send()

    def broken_model(asked: Operation) -> Any:
        on_kserve(answers({"error": "no"}, status=500))
        return asked.send()

    def slow_model(asked: Operation) -> Any:
        on_kserve(answers({"error": "late"}, status=504))
        return asked.send()

    def model_without_it(asked: Operation) -> Any:
        if asked.id == "describeModel":
            on_kserve(answers({}, status=404))
        return asked.send()

    def canceled_meanwhile(asked: Operation) -> Any:
        def cancel(visit: Visit) -> None:
            submission.cancel(Task.objects.get().pk)
            connection.close()
            hangs(visit)

        on_kserve(cancel)
        return asked.send()

    def malformed(asked: Operation) -> Any:
        if asked.body:
            return asked.send(path=token(), value={})
        if asked.parameters("query"):
            return asked.send(query={})
        return asked.send(headers={**asked.credentials, "Transfer-Encoding": "gzip"})

    def without_a_key(asked: Operation) -> Any:
        return asked.send(headers={})

    def with_the_wrong_key(asked: Operation) -> Any:
        wrong = "caller-key" if "recordKey" in asked.schemes or "staffSession" in asked.schemes else "record-key"
        return asked.send(headers={"apikey": wrong})

    def nothing_there(asked: Operation) -> Any:
        configured(API_DOCS=False)
        return asked.send()

    def ended(asked: Operation) -> Any:
        Task.objects.create(pk=TASK_ID, agent="default", status="succeeded", ended_at=now())
        return asked.send()

    def of_another_agent(asked: Operation) -> Any:
        Task.objects.create(pk=TASK_ID, agent="", status="pending")
        return asked.send()

    def twice(asked: Operation) -> Any:
        asked.send()
        return asked.send()

    def ended_record(asked: Operation) -> Any:
        operation("createRecord").send()
        Task.objects.update(status="canceled")
        return asked.send()

    def too_large_a_body(asked: Operation) -> Any:
        configured(MAX_REQUEST_BODY=5)
        return asked.send(media_type="application/json", value={"model_name": "iris"})

    def too_large_a_file(asked: Operation) -> Any:
        configured(MAX_UPLOAD_SIZE=1)
        return asked.send(path=token())

    def another_type(asked: Operation) -> Any:
        return asked.send(path=token(), media_type="text/plain", value="hello")

    def full_queue(asked: Operation) -> Any:
        configured(MAX_QUEUE_SIZE=0)
        return asked.send()

    def outage(asked: Operation) -> Any:
        path = token()
        configured(MEDIA_ROOT="/proc/nowhere")
        redis_proxy.cut()
        with connection.execute_wrapper(_no_database):
            return asked.send(path=path)

    def defect(asked: Operation) -> Any:
        def fall(*args: object) -> None:
            raise RuntimeError("unexpected")

        monkeypatch.setattr(APIView, "check_throttles", fall)
        return asked.send(path=token())

    def token() -> dict[str, str]:
        Task.objects.get_or_create(pk=TASK_ID, defaults={"agent": "default", "status": "running"})
        return {"token": upload_address(TASK_ID).split("/u/")[1].split("/")[0]}

    ways: dict[str, Callable[[Operation], Any]] = {
        "invalid_request": malformed,
        "invalid_inputs": refused_by_the_model,
        "unsupported": model_without_it,
        "unauthorized": without_a_key,
        "forbidden": with_the_wrong_key,
        "not_found": nothing_there,
        "already_finished": ended,
        "canceled": canceled_meanwhile,
        "not_ours": of_another_agent,
        "already_exists": twice,
        "invalid_transition": ended_record,
        "body_too_large": too_large_a_body,
        "upload_too_large": too_large_a_file,
        "unsupported_media_type": another_type,
        "queue_full": full_queue,
        "internal_error": defect,
        "platform_error": broken_model,
        "unavailable": outage,
        "platform_timeout": slow_model,
    }
    configured(**KEYS)
    return lambda asked, code: ways[code](asked)


def _no_database(*args: object) -> None:
    raise OperationalError("the server closed the connection")


@pytest.mark.parametrize(("asked", "status", "code"), errors(), ids=lambda told: getattr(told, "id", str(told)))
def test_an_error_is_answered_as_the_document_says(
    provoke: Callable[[Operation, str], Any], asked: Operation, status: int, code: str
) -> None:
    response = provoke(asked, code)
    assert (response.status_code, response.json()["code"]) == (status, code), response.content
    example = example_of(asked, status, code)
    assert response.json().keys() == example.keys()
    if status in (401, 403, 413, 429, 500):  # the others quote the platform, a field or the missing object
        assert response.json() == example
    headers = asked.told["responses"][str(status)]["headers"]
    assert not [name for name, header in headers.items() if header.get("required") and not response.has_header(name)]
