"""The parts of the OpenAPI document that routes share: keys, headers, links and errors.

drf-spectacular takes the rest from the views: their docstrings, serializers and `@extend_schema` decorators.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.core.validators import RegexValidator
from drf_spectacular import openapi
from drf_spectacular.extensions import OpenApiSerializerFieldExtension
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.utils import Direction, OpenApiExample, OpenApiParameter, OpenApiResponse
from rest_framework.exceptions import (
    NotAuthenticated,
    ParseError,
    PermissionDenied,
    UnsupportedMediaType,
    ValidationError,
)

from platforms import InvalidInputs, PlatformTimeout, PlatformUnavailable
from predictions.api.errors import look_up
from predictions.api.serializers import TASK_ID, StrictCharField
from predictions.api.views import TaskAPIView

Errors = Sequence[Exception | type[Exception]]

BODY_ERRORS: Errors = (
    ValidationError({"model_name": ["This field is required."]}),
    RequestDataTooBig,
    UnsupportedMediaType("text/plain"),
)
PLATFORM_ERRORS: Errors = (
    InvalidInputs('"instances" is missing. Send "instances" as a list of flowers.'),
    PlatformUnavailable("the kserve platform could not be reached"),
    PlatformTimeout("the kserve platform did not answer in time"),
)
ERRORS_OF_EVERY_ROUTE: Errors = (
    ParseError("the body is not JSON: Expecting value: line 1 column 1 (char 0)"),
    RuntimeError,
)
MEANINGS = {
    "invalid_request": "the request is malformed, or a field is missing or wrong (`field` names it)",
    "invalid_inputs": "the platform refused the inputs",
    "unsupported": "the platform does not have this function",
    "unauthorized": "the request has no key, or an unknown one",
    "forbidden": "the key is not allowed to do this",
    "not_found": "the task or the route does not exist",
    "method_not_allowed": "the route does not have this method; `Allow` lists those it has",
    "already_finished": "the task has ended and cannot be canceled; `status` is its status",
    "canceled": "the task was canceled while its caller waited",
    "not_ours": "another agent runs the task; this agent keeps its record",
    "already_exists": "a task with this id exists",
    "invalid_transition": "the task's status does not allow the change",
    "body_too_large": "the body is larger than `MAX_REQUEST_BODY`",
    "upload_too_large": "the file is larger than `MAX_UPLOAD_SIZE`",
    "unsupported_media_type": "the route does not read bodies of this type",
    "queue_full": "the queue is full; `Retry-After` says when to try again",
    "internal_error": "the agent has a defect; its log has the details under the request's id",
    "platform_error": "the platform could not be reached, answered 5xx, or sent an unreadable answer",
    "unavailable": "Redis, the database, the storage or the record service does not answer",
    "platform_timeout": "the platform did not answer in time",
}
"""Code of an error → when the agent answers it."""

SECURITY_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "A key of `API_KEYS`. The operators' routes need a key of `OPERATOR_KEYS`.",
    },
    "apikey": {"type": "apiKey", "in": "header", "name": "apikey", "description": "The same key in a header."},
    "recordKey": {
        "type": "apiKey",
        "in": "header",
        "name": "apikey",
        "description": "The record service's key, `WEBHOOK_APIKEY`, for agents that keep their records here.",
    },
    "metricsKey": {"type": "http", "scheme": "bearer", "description": "`METRICS_KEY`, if it is set."},
    "staffSession": {
        "type": "apiKey",
        "in": "cookie",
        "name": "sessionid",
        "description": "A staff user signed in to the admin. Requests also need the `X-CSRFToken` header.",
    },
}
"""The names that permission classes list in `schemes`."""

header = partial(OpenApiParameter, location=OpenApiParameter.HEADER)
USER_ID = header("UID", description="The end user of the task. The agent keeps it with the task.")
TASK_ID_IN_PATH = OpenApiParameter(
    "task_id",
    location=OpenApiParameter.PATH,
    pattern="^[A-Za-z0-9._-]{1,64}$",
    description="The id that the submission returned.",
    examples=[OpenApiExample("A task", TASK_ID)],
)
HEADERS_OF_EVERY_ROUTE = [
    header(
        "X-Request-ID",
        description="An id for the log. The agent returns it and sends it on to the platform. It replaces an id that "
        "has other characters than letters, digits and `._:@=+/-`, or more than 128.",
    ),
    header("X-Request-ID", description="The request's id.", required=True, response=True),
    header("WWW-Authenticate", description="How to send a key.", required=True, response=[401]),
    header("Retry-After", int, description="Seconds to wait before the next try.", required=True, response=[429]),
    header("Retry-After", int, description="Seconds to wait before the next try, if known.", response=[503]),
]
TASK_ID_IN_HEADER = header("X-Task-ID", description="The id of the request's task, if it has one.", response=True)
TASK_LINKS = {
    name: {
        "operationId": operation,
        "description": description,
        "parameters": {"task_id": "$response.header.X-Task-ID"},
    }
    for name, operation, description in [
        ("read", "getTask", "Reads the task."),
        ("cancel", "cancelTask", "Cancels the task."),
    ]
}


def errors(*causes: Exception | type[Exception], of_task: Errors = ()) -> dict[int, OpenApiResponse]:
    """The answers that exceptions become, by the table in errors.py. `of_task`: those whose body names the task.

    A class stands for its instance without arguments.
    """
    bodies: dict[int, dict[str, dict[str, Any]]] = defaultdict(dict)
    for group, extra in ((causes, {}), (of_task, {"task_id": TASK_ID})):
        for cause in group:
            status, body = look_up(cause() if isinstance(cause, type) else cause)
            bodies[status][body["code"]] = body | extra
    return {status: _error_response(by_code) for status, by_code in bodies.items()}


def _error_response(bodies: dict[str, dict[str, Any]]) -> OpenApiResponse:
    """One status: its codes, and an example of each."""
    names = {name: {"type": "string"} for body in bodies.values() for name in body}
    return OpenApiResponse(
        {
            "type": "object",
            "properties": names | {"code": {"type": "string", "enum": list(bodies)}},
            "required": ["error", "code"],
        },
        description="; ".join(f"`{code}`: {MEANINGS[code]}" for code in bodies),
        examples=[OpenApiExample(code, value=body) for code, body in bodies.items()],
    )


class AutoSchema(openapi.AutoSchema):
    """Adds to each route what its view implies: keys and their errors, headers, and links of tasks."""

    def get_auth(self) -> list[dict[str, Any]]:
        return [{scheme: []} for permission in self.view.get_permissions() for scheme in permission.schemes]

    def get_override_parameters(self) -> list[Any]:
        return HEADERS_OF_EVERY_ROUTE + [TASK_ID_IN_HEADER] * isinstance(self.view, TaskAPIView)

    def _get_response_bodies(self, direction: Direction = "response") -> dict[str, Any]:
        responses = super()._get_response_bodies(direction)
        for status, response in errors(*ERRORS_OF_EVERY_ROUTE, *self._refusals()).items():
            responses.setdefault(str(status), self._get_response_for_code(response, str(status)))
        if isinstance(self.view, TaskAPIView):
            for status in responses.keys() & {"200", "202"}:
                responses[status]["links"] = TASK_LINKS
        return dict(sorted(responses.items()))

    def _refusals(self) -> Iterator[Exception]:
        for permission in self.view.get_permissions():
            if permission.without_key:
                yield NotAuthenticated(permission.without_key)
            if permission.message:
                yield PermissionDenied(permission.message)


class StrictText(OpenApiSerializerFieldExtension):
    """PostgreSQL takes no NUL. A required text has more than spaces. A validator of the field replaces both rules."""

    target_class = StrictCharField

    def map_serializer_field(self, auto_schema: openapi.AutoSchema, direction: Direction) -> dict[str, Any]:
        if any(isinstance(validator, RegexValidator) for validator in self.target.validators):
            return {"type": "string"}
        return {
            "type": "string",
            "pattern": r"^[^\x00]+$" if self.target.allow_blank else r"^[^\x00]*[^\s\x00][^\x00]*$",
        }


INTRODUCTION = """\
One API in front of model platforms: KServe, plain Kubernetes services, Replicate, RunPod and local Python callables.

The agent answers **sync** predictions when they are done, **async** predictions at once with an id, and **streaming**
predictions piece by piece. Each prediction is a *task*, which callers read and cancel by its id.

Bodies are JSON in UTF-8. Every answer has an `X-Request-ID`, the caller's own if it sent one. An error is an object
with `error`, a sentence, and `code`, a stable word:

| status | `code` | when |
|---|---|---|
"""


def add_overview(result: dict[str, Any], **context: Any) -> dict[str, Any]:
    """drf-spectacular's hook: adds the keys and a table of all errors to the document."""
    result["components"]["securitySchemes"] = SECURITY_SCHEMES
    rows = {("405", "method_not_allowed")}
    for operation in (operation for path in result["paths"].values() for operation in path.values()):
        for status, response in operation["responses"].items():
            if status >= "400":
                examples = response["content"]["application/json"]["examples"].values()
                rows |= {(status, example["value"]["code"]) for example in examples}
    result["info"]["description"] = INTRODUCTION + "".join(
        f"| {status} | `{code}` | {MEANINGS[code]} |\n" for status, code in sorted(rows)
    )
    return result


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document of this process's routes. It is the same for every deployment."""
    result: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)
    return result
