"""The parts of the OpenAPI document that routes share: keys, headers, links and errors.

drf-spectacular takes the rest from the views: their docstrings, serializers and `@extend_schema` decorators.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.core.validators import RegexValidator
from drf_spectacular import openapi
from drf_spectacular.extensions import OpenApiSerializerFieldExtension
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.utils import Direction, OpenApiExample, OpenApiParameter, OpenApiResponse
from rest_framework import serializers
from rest_framework.exceptions import ParseError, UnsupportedMediaType, ValidationError

from platforms import InvalidInputs, PlatformTimeout, PlatformUnavailable
from predictions.api.errors import look_up
from predictions.api.serializers import TASK_ID, StrictCharField

Errors = Sequence[Exception | type[Exception]]

INTRODUCTION = """\
One API in front of model platforms: KServe, plain Kubernetes services, Replicate, RunPod and local Python callables.

The agent answers **sync** predictions when they are done, **async** predictions at once with an id, and **streaming**
predictions piece by piece. Each prediction is a *task*, which callers read and cancel by its id. Bodies are JSON in
UTF-8. An error has a sentence and a stable code, which the answers of each route list. All routes answer
405 `method_not_allowed` to methods that they do not have."""
SECURITY_SCHEMES = {
    name: {"type": type_, **details, "description": description}
    for name, type_, details, description in [
        ("bearer", "http", {"scheme": "bearer"}, "A key of `API_KEYS`, or of `OPERATOR_KEYS` for operators' routes."),
        ("apikey", "apiKey", {"in": "header", "name": "apikey"}, "The same key in another header."),
        ("recordKey", "apiKey", {"in": "header", "name": "apikey"}, "`WEBHOOK_APIKEY`, the record service's key."),
        ("metricsKey", "http", {"scheme": "bearer"}, "`METRICS_KEY`, if it is set."),
        ("staffSession", "apiKey", {"in": "cookie", "name": "sessionid"}, "The admin's; needs `X-CSRFToken` as well."),
    ]
}
"""The names that permissions list in `schemes`."""

NOT_JSON = UnsupportedMediaType("text/plain")
NOT_PARSED = ParseError("the body is not JSON: Expecting value: line 1 column 1 (char 0)")
BODY_ERRORS: Errors = (ValidationError({"model_name": ["This field is required."]}), RequestDataTooBig, NOT_JSON)
PLATFORM_ERRORS: Errors = (
    InvalidInputs('"instances" is missing. Send "instances" as a list of flowers.'),
    PlatformUnavailable("the kserve platform could not be reached"),
    PlatformTimeout("the kserve platform did not answer in time"),
)

header = partial(OpenApiParameter, location="header")
HEADERS = [
    header("X-Request-ID", description="The request's id for the log: up to 128 letters, digits and `._:@=+/-`."),
    header("X-Request-ID", description="The request's id, or a new one.", required=True, response=True),
    header("WWW-Authenticate", description="How to send a key.", required=True, response=[401]),
    header("Retry-After", int, description="Seconds to wait before the next try.", required=True, response=[429]),
    header("Retry-After", int, description="Seconds to wait before the next try, if known.", response=[503]),
]
TASK_HEADER = header("X-Task-ID", description="The id of the request's task, if it has one.", response=True)
TASK_LINKS = {
    name: {"operationId": operation, "parameters": {"task_id": "$response.header.X-Task-ID"}}
    for name, operation in [("read", "getTask"), ("cancel", "cancelTask")]
}
USER_ID = header("UID", description="The end user of the task. The agent keeps it with the task.")
TASK_ID_IN_PATH = OpenApiParameter(
    "task_id", location="path", pattern="^[A-Za-z0-9._-]{1,64}$", examples=[OpenApiExample("A task", TASK_ID)]
)


class ErrorSerializer(serializers.Serializer[Any]):
    """What went wrong."""

    error = serializers.CharField(help_text="A sentence for people.")
    code = serializers.CharField(help_text="A stable word for programs.")
    field = serializers.CharField(required=False, help_text="The field that is missing or wrong.")
    status = serializers.CharField(required=False, help_text="The status of the task that cannot be canceled.")
    task_id = serializers.CharField(required=False, help_text="The request's task.")


def errors(*causes: Exception | type[Exception], of_task: Errors = ()) -> dict[int, OpenApiResponse]:
    """The answers that exceptions become, by the table in errors.py. `of_task`: those whose body names the task.

    A class stands for its instance without arguments.
    """
    bodies: dict[int, dict[str, dict[str, Any]]] = defaultdict(dict)
    for group, extra in ((causes, {}), (of_task, {"task_id": TASK_ID})):
        for cause in group:
            status, body = look_up(cause() if isinstance(cause, type) else cause)
            bodies[status][body["code"]] = body | extra
    return {
        status: OpenApiResponse(
            ErrorSerializer,
            "; ".join(f"`{code}`: {body['error']}" for code, body in by_code.items()),
            [OpenApiExample(code, body) for code, body in by_code.items()],
        )
        for status, by_code in bodies.items()
    }


class AutoSchema(openapi.AutoSchema):
    """Derives from each view its text, tag, keys, errors of keys, headers and links."""

    def get_summary(self) -> str:
        return super().get_description().partition("\n")[0].removesuffix(".")

    def get_description(self) -> str:  # type: ignore[override]  # as in drf-spectacular's class
        return super().get_description().partition("\n")[2].strip()

    def get_tags(self) -> list[str]:
        return [type(self.view).__module__.rpartition(".")[2].capitalize()]

    def get_request_serializer(self) -> None:
        return None

    def get_auth(self) -> list[dict[str, Any]]:
        permissions: Any = self.view.get_permissions()
        return [{scheme: []} for permission in permissions for scheme in permission.schemes]

    def get_override_parameters(self) -> list[Any]:
        return [*HEADERS, TASK_HEADER] if hasattr(self.view, "task_id") else HEADERS

    def _get_response_bodies(self, direction: Direction = "response") -> dict[str, Any]:
        responses: dict[str, Any] = super()._get_response_bodies(direction)
        permissions: Any = self.view.get_permissions()
        refusals = [refusal for permission in permissions for refusal in permission.refusals]
        for status, response in errors(NOT_PARSED, *refusals, RuntimeError).items():
            described = self._get_response_for_code(response, str(status))  # type: ignore[no-untyped-call]
            responses.setdefault(str(status), described)
        if hasattr(self.view, "task_id"):  # a TaskAPIView
            for success in responses.keys() & {"200", "202"}:
                responses[success]["links"] = TASK_LINKS
        return responses


class StrictText(OpenApiSerializerFieldExtension):
    """PostgreSQL takes no NUL. A required text has more than spaces. A validator of the field replaces both rules."""

    target_class = StrictCharField

    def map_serializer_field(self, auto_schema: openapi.AutoSchema, direction: Direction) -> dict[str, Any]:
        if any(isinstance(validator, RegexValidator) for validator in self.target.validators):
            return {"type": "string"}
        pattern = r"^[^\x00]+$" if self.target.allow_blank else r"^[^\x00]*[^\s\x00][^\x00]*$"
        return {"type": "string", "pattern": pattern}


def add_overview(result: dict[str, Any], **context: Any) -> dict[str, Any]:
    """drf-spectacular's hook: adds the introduction and the keys to the document."""
    result["info"]["description"] = INTRODUCTION
    result["components"]["securitySchemes"] = SECURITY_SCHEMES
    return result


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document of this process's routes, equal in every deployment."""
    result: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)
    return result
