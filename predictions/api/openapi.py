"""How the OpenAPI document is made: what every operation has, and its errors, out of the table that answers them.

`schema/`, here, and `webhooks/schema.py` say what each route is for. The views know nothing of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.core.validators import RegexValidator
from drf_spectacular.extensions import OpenApiSerializerFieldExtension, OpenApiViewExtension
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import (
    OpenApiExample,
    OpenApiParameter,
    OpenApiRequest,
    OpenApiResponse,
    extend_schema,
    extend_schema_view,
)
from rest_framework import exceptions
from rest_framework.views import APIView

from platforms import InvalidInputs, PlatformTimeout, PlatformUnavailable, Unsupported
from predictions.api.authentication import IsOperator, MayCall
from predictions.api.errors import look_up
from predictions.api.metrics import MayScrape
from predictions.api.serializers import ObjectField, StrictCharField
from predictions.recorder import RecordUnavailable
from predictions.redis.errors import QueueUnavailable

Description = Callable[[Any], Any]

# --- Errors: documented by an exception each, so that status, code and sentence are those that are really answered
MALFORMED = exceptions.ParseError("the body is not JSON: Expecting value: line 1 column 1 (char 0)")
MISSING_FIELD = exceptions.ValidationError({"model_name": ["This field is required."]})
REFUSED_INPUTS = InvalidInputs('"instances" is missing. Send "instances" as a list of flowers.')
UNSUPPORTED = Unsupported("the local platform cannot stream")
UNREACHABLE = PlatformUnavailable("the kserve platform could not be reached")
TOO_SLOW = PlatformTimeout("the kserve platform did not answer in time")
NO_QUEUE = QueueUnavailable()
NO_DATABASE = RecordUnavailable()
TOO_LARGE = RequestDataTooBig()
NOT_SERVED = exceptions.NotFound()
NOT_JSON = exceptions.UnsupportedMediaType("text/plain")
DEFECT = Exception()

UNAVAILABLE = (NO_QUEUE, NO_DATABASE)
PLATFORM_ERRORS = (REFUSED_INPUTS, UNREACHABLE, TOO_SLOW)
BODY_ERRORS = (MISSING_FIELD, TOO_LARGE, NOT_JSON)

WHEN = {
    "invalid_request": "the request is malformed, or a field is missing or wrong (which one is in `field`)",
    "invalid_inputs": "the platform refused the inputs",
    "unsupported": "the platform has no such function",
    "unauthorized": "no key came with the request, or an unknown one",
    "forbidden": "the key may not do this",
    "not_found": "there is no such task or route",
    "method_not_allowed": "the method is wrong; `Allow` has the right ones",
    "already_finished": "the task to be canceled has ended; `status` says how",
    "canceled": "the task was canceled while its caller waited",
    "not_ours": "another agent runs the task; this one keeps its record",
    "already_exists": "a task with this id exists",
    "invalid_transition": "the task's status does not allow the change",
    "body_too_large": "the body is larger than `MAX_REQUEST_BODY` allows",
    "upload_too_large": "the file is larger than `MAX_UPLOAD_SIZE` allows",
    "unsupported_media_type": "the body is not of a type that is read here",
    "queue_full": "as many tasks wait as may; `Retry-After` says when to try again",
    "internal_error": "a defect of the agent; it is in the log under the request's id",
    "platform_error": "the platform could not be reached, answered 5xx, or something unreadable",
    "unavailable": "Redis, the database, the storage or the record service does not answer",
    "platform_timeout": "the platform did not answer in time",
}
"""Code of an error → when it is answered."""

# --- Who may call
SECURITY_SCHEMES: dict[str, dict[str, str]] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "A key of `API_KEYS`, or for the operators' routes one of `OPERATOR_KEYS`.",
    },
    "apikey": {
        "type": "apiKey",
        "in": "header",
        "name": "apikey",
        "description": "The same key in a header of its own.",
    },
    "recordKey": {
        "type": "apiKey",
        "in": "header",
        "name": "apikey",
        "description": "The record service's key, `WEBHOOK_APIKEY`: for other agents that keep their records here.",
    },
    "metricsKey": {
        "type": "http",
        "scheme": "bearer",
        "description": "`METRICS_KEY`, where that is set.",
    },
    "staffSession": {
        "type": "apiKey",
        "in": "cookie",
        "name": "sessionid",
        "description": "A staff user who is signed in to the admin. Requests need the `X-CSRFToken` header too.",
    },
}


@dataclass(frozen=True, slots=True)
class Audience:
    """Who may call: the schemes that let them in, and what others are answered."""

    schemes: tuple[str, ...] = ()
    refusals: tuple[Exception, ...] = ()


NO_KEY = exceptions.NotAuthenticated("send an API key: 'Authorization: Bearer …' or 'apikey: …'")
ANYBODY = Audience()
CALLERS = Audience(("bearer", "apikey"), (NO_KEY, exceptions.PermissionDenied(MayCall.message)))
READERS = Audience(("bearer", "apikey", "recordKey"), (NO_KEY,))  # every key that is known may read
SCRAPERS = Audience(("metricsKey",), (exceptions.NotAuthenticated(MayScrape.message),))
OPERATORS = Audience(
    ("bearer", "apikey", "staffSession"),
    (exceptions.NotAuthenticated(IsOperator.message), exceptions.PermissionDenied(IsOperator.message)),
)

# --- Headers
REQUEST_ID = OpenApiParameter(
    "X-Request-ID",
    str,
    OpenApiParameter.HEADER,
    description="An id for the log, handed back and sent on to the platform. One that is no id (letters, digits and "
    "`._:@=+/-`, 128 at most) is replaced.",
)
USER_ID = OpenApiParameter("UID", str, OpenApiParameter.HEADER, description="Whose task it is; kept with the task.")
TEXT = r"^[^\x00]*$"
NAME = r"^[^\x00]*[^\s\x00][^\x00]*$"
MODEL_NAME = {"type": "string", "minLength": 1, "maxLength": 200, "pattern": NAME}
TASK_ID = "4df7acfc-3c5b-4a55-9d3c-0b6a6f1f2c11"
TASK_ID_IN_PATH = OpenApiParameter(
    "task_id",
    {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
    OpenApiParameter.PATH,
    description="The id that the submission was answered.",
    examples=[OpenApiExample("A task", TASK_ID)],
)


def answer_header(
    name: str, description: str, *statuses: int, schema: dict[str, Any] | None = None, required: bool = True
) -> OpenApiParameter:
    """A header of the answers with these statuses, or of every answer."""
    return OpenApiParameter(
        name,
        schema or {"type": "string"},
        OpenApiParameter.HEADER,
        required=required,
        description=description,
        response=list(statuses) or True,
    )


COUNT = {"type": "integer", "minimum": 0}
SECONDS = {"type": "integer", "minimum": 1}
ANSWER_HEADERS = (
    answer_header("X-Request-ID", "The request's id.", schema={"type": "string", "minLength": 1, "maxLength": 128}),
    answer_header("X-Task-ID", "The task that the answer is about, where there is one.", required=False),
    answer_header("WWW-Authenticate", "How to say who you are.", 401),
    answer_header("Retry-After", "Seconds after which to try again.", 429, schema=SECONDS),
    answer_header(
        "Retry-After", "Seconds after which to try again, where that is known.", 503, schema=SECONDS, required=False
    ),
)

_links: dict[str, dict[str, dict[str, Any]]] = {}


def describe(view: type[APIView], **operations: Description) -> None:
    """Says what the methods of a view are: `describe(TaskView, get=operation(…))`."""
    described = extend_schema_view(**operations)(type(view.__name__, (view,), {}))

    class ViewDescription(OpenApiViewExtension):
        target_class = view

        def view_replacement(self) -> type[APIView]:
            return described


def operation(
    name: str,
    *,
    tag: str,
    who: Audience,
    summary: str,
    answers: dict[Any, OpenApiResponse],
    errors: Sequence[Exception] = (),
    task_errors: Sequence[Exception] = (),
    description: str = "",
    parameters: Sequence[OpenApiParameter] = (),
    request: dict[str, OpenApiRequest] | None = None,
    links: dict[str, dict[str, Any]] | None = None,
) -> Description:
    """One operation. `task_errors` are those that name a task; `links` link objects for every answer of success."""
    _links[name] = links or {}
    requirements: list[Any] = [{scheme: []} for scheme in who.schemes]
    return extend_schema(
        operation_id=name,
        tags=[tag],
        summary=summary,
        description=description,
        auth=requirements,
        parameters=[REQUEST_ID, *parameters, *ANSWER_HEADERS],
        request=request,
        responses={**answers, **_error_answers((MALFORMED, *who.refusals, *errors, DEFECT), task_errors)},
    )


def json_request(serializer: Any, *examples: OpenApiExample) -> dict[str, OpenApiRequest]:
    return {"application/json": OpenApiRequest(serializer, examples=list(examples))}


def answer(schema: Any, description: str, *examples: OpenApiExample) -> OpenApiResponse:
    return OpenApiResponse(schema, description=description, examples=list(examples))


def to_task(operation_id: str, description: str, expression: str = "$response.body#/id") -> dict[str, Any]:
    """A link to an operation on the task whose id is found at `expression`."""
    return {"operationId": operation_id, "description": description, "parameters": {"task_id": expression}}


def _error_answers(errors: Sequence[Exception], task_errors: Sequence[Exception]) -> dict[int, OpenApiResponse]:
    """An answer for each status: its codes, and an example of each."""
    of_tasks = [(status, {**body, "task_id": TASK_ID}) for status, body in map(look_up, task_errors)]
    looked_up = sorted([*map(look_up, errors), *of_tasks], key=lambda found: found[0])
    return {
        status: _error_answer({body["code"]: body for _, body in found})
        for status, found in groupby(looked_up, key=lambda found: found[0])
    }


def _error_answer(bodies: dict[str, dict[str, Any]]) -> OpenApiResponse:
    also = {name: {"type": "string"} for body in bodies.values() for name in body}
    schema = {
        "type": "object",
        "properties": {**also, "error": {"type": "string"}, "code": {"type": "string", "enum": list(bodies)}},
        "required": ["error", "code"],
    }
    return OpenApiResponse(
        schema,
        description="; ".join(f"`{code}`: {WHEN[code]}" for code in bodies),
        examples=[OpenApiExample(code, value=body) for code, body in bodies.items()],
    )


# --- Fields whose rules the library cannot read
class StrictText(OpenApiSerializerFieldExtension):
    """No NUL, which PostgreSQL does not take; where a text is asked for, more than spaces; or what a validator says."""

    target_class = StrictCharField

    def map_serializer_field(self, auto_schema: AutoSchema, direction: str) -> dict[str, Any]:
        if any(isinstance(validator, RegexValidator) for validator in self.target.validators):
            return {"type": "string"}
        return {"type": "string", "pattern": TEXT if self.target.allow_blank else NAME}


class AnyObject(OpenApiSerializerFieldExtension):
    target_class = ObjectField

    def map_serializer_field(self, auto_schema: AutoSchema, direction: str) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": {}}


# --- The document
INTRODUCTION = """\
One API in front of model platforms: KServe, plain Kubernetes services, Replicate, RunPod and local Python callables.

**Sync** predictions are answered when they are done, **async** ones with an id at once, and **streaming** ones piece by
piece. Each is a *task*, which can be read and canceled under its id.

Bodies are JSON in UTF-8. Every answer has an `X-Request-ID`; yours is used if you send one. An error is an object with
`error`, a sentence, and `code`, a stable word:

| status | `code` | when |
|---|---|---|
"""


def without_admin(endpoints: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """drf-spectacular's hook for what it found: the admin's pages have routes of their own, for themselves alone."""
    return [endpoint for endpoint in endpoints if not endpoint[0].startswith("/admin/")]


def complete(result: dict[str, Any], **context: Any) -> dict[str, Any]:
    """drf-spectacular's hook for a document that is nearly done: adds what it has no words for."""
    result["components"] = {
        "schemas": _any_of(result["components"]["schemas"]),
        "securitySchemes": SECURITY_SCHEMES,
    }
    codes: dict[str, str] = {}
    for path in result["paths"].values():
        for found in path.values():
            if links := _links[found["operationId"]]:
                for status, response in found["responses"].items():
                    if status.startswith("2"):
                        response["links"] = links
            codes |= _codes(found["responses"])
    codes["method_not_allowed"] = "405"  # the answer to what is no operation
    rows = sorted((status, code) for code, status in codes.items())
    result["info"]["description"] = INTRODUCTION + "".join(
        f"| {status} | `{code}` | {WHEN[code]} |\n" for status, code in rows
    )
    return result


def _any_of(schema: Any) -> Any:
    """The library says "one of" where an empty text or null is allowed, and such a value may fit more than one."""
    if isinstance(schema, dict):
        kept = {name: _any_of(part) for name, part in schema.items() if name != "x-spec-enum-id"}
        return {("anyOf" if name == "oneOf" else name): part for name, part in kept.items()}
    return [_any_of(part) for part in schema] if isinstance(schema, list) else schema


def _codes(responses: dict[str, Any]) -> dict[str, str]:
    """Code of an error → its status."""
    schemas = {
        status: media["schema"].get("properties", {}).get("code", {})
        for status, response in responses.items()
        for media in response.get("content", {}).values()
    }
    return {code: status for status, schema in schemas.items() for code in schema.get("enum", [])}


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document of the routes that this process serves. It is the same for everyone, and made once."""
    found: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)
    return found
