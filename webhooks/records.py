"""The record service: tasks of this and of other agents, created and changed over HTTP.

The wire is fixed (docs/reference.md, "Record service"). Changes go through predictions.lifecycle like all others.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from django.core.validators import RegexValidator
from django.db import IntegrityError, transaction
from django.http import StreamingHttpResponse
from django.utils.timezone import now
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_field, extend_schema_serializer
from rest_framework import serializers
from rest_framework.exceptions import APIException
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from platforms.base import parse_running_time
from platforms.parsing import dumps
from predictions import lifecycle, submission
from predictions.api.openapi import BODY_ERRORS, USER_ID, errors
from predictions.api.predictions import TaskAPIView, user_id
from predictions.api.requests import query_or_body
from predictions.api.serializers import (
    EXAMPLE_TASK,
    TASK_ID,
    ModelSerializer,
    StrictCharField,
    TaskIdSerializer,
    TaskSerializer,
    task_object,
)
from predictions.database.errors import database_errors, release_connection
from predictions.lifecycle import InvalidTransition
from predictions.models import ENDED, Task, TaskQuerySet
from predictions.recorder import RecordUnavailable
from predictions.submission import TaskNotFound
from webhooks.permissions import IsRecordClient

MODEL_STATUS_PAGE = 1000
STATUSES = Task.Status.choices
SECONDS_TEXT = r"^\s*(\d{1,99}(\.\d*)?|\.\d+)([eE][+-]?\d\d?)?\s*[sS]?\s*$"


class RecordExists(APIException):
    status_code = 409
    default_code = "already_exists"
    default_detail = "a task with this id exists"


@extend_schema_field(
    {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": SECONDS_TEXT}, {"enum": ["", None]}]}
)
class RunningTimeField(serializers.Field[Any, Any, Any, Any]):
    """`"0.0146s"`, `"3.98e-05s"` or a number of seconds."""

    def to_internal_value(self, data: Any) -> float:
        seconds = parse_running_time(data)
        if seconds is None:
            raise serializers.ValidationError('Write seconds, such as "0.0146s".')
        return seconds


class StrictIntegerField(serializers.IntegerField):
    """Numbers only: DRF's own field also takes text."""

    def to_internal_value(self, data: Any) -> int:
        if not isinstance(data, int | float):
            self.fail("invalid")
        return super().to_internal_value(data)  # refuses booleans and fractions


@extend_schema_serializer(
    examples=[OpenApiExample("A waiting task", {"id": TASK_ID, "model_name": "iris", "queue_num": 3})]
)
class NewRecordSerializer(serializers.Serializer[Any]):
    """A new record. `status` is `pending` by default."""

    id = StrictCharField(validators=[RegexValidator(f"^{submission.TASK_ID.pattern}$")])
    model_name = StrictCharField(max_length=200)
    model_version = StrictCharField(max_length=100, required=False, allow_blank=True, allow_null=True)
    queue_num = StrictIntegerField(required=False, allow_null=True, min_value=0, max_value=2**31 - 1)
    status = serializers.ChoiceField(STATUSES, required=False, allow_blank=True, allow_null=True)


class RecordChangeSerializer(serializers.Serializer[Any]):
    """A change of a record. Fields that are missing, null or empty stay unchanged."""

    # The wire's `database_only` is not read: this service has no other service to tell.
    id = StrictCharField(max_length=64)
    status = serializers.ChoiceField(STATUSES, required=False, allow_blank=True, allow_null=True)
    running_time = RunningTimeField(required=False)
    outputs = serializers.JSONField(required=False)
    error_info = StrictCharField(required=False, allow_blank=True, allow_null=True)
    queue_id = StrictCharField(max_length=64, required=False, allow_blank=True, allow_null=True)

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict):
            data = {name: value for name, value in data.items() if value is not None and value != ""}
        return super().to_internal_value(data)


class ModelStatusSerializer(ModelSerializer):
    """A query for the tasks of a model."""

    status = serializers.ChoiceField(STATUSES)


class ListedTaskSerializer(serializers.Serializer[Any]):
    """A task in a list."""

    id = serializers.CharField()
    task_id = serializers.CharField(source="id")
    user_id = serializers.CharField()
    model_name = serializers.CharField()
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()
    running_time = serializers.SerializerMethodField(help_text="Seconds; 0 if unknown.")
    status = serializers.ChoiceField(STATUSES)

    def get_running_time(self, task: Task) -> float:
        return task.running_time or 0.0


LISTED_TASK = {
    **{name: EXAMPLE_TASK[name] for name in ("id", "model_name", "created_at", "status")},
    "task_id": TASK_ID,
    "user_id": "ann",
    "updated_at": EXAMPLE_TASK["ended_at"],
    "running_time": 0.001324,
}
NOT_ENDED = {"status": "running", "running_time": "", "outputs": None, "ended_at": None}
RUNNING_RECORD = EXAMPLE_TASK | NOT_ENDED | {"queue_num": 3, "queue_id": TASK_ID, "platform": ""}


class RecordsView(TaskAPIView):
    """`POST /task` creates a record, `PUT /task` changes it."""

    permission_classes = [IsRecordClient]

    @extend_schema(
        "createRecord",
        parameters=[USER_ID],
        request=NewRecordSerializer,
        responses={200: TaskIdSerializer, **errors(*BODY_ERRORS, RecordExists, RecordUnavailable)},
    )
    def post(self, request: Request) -> Response:
        """Create the record of a task that another agent runs."""
        record = NewRecordSerializer(data=request.data)
        record.is_valid(raise_exception=True)
        fields = {name: value for name, value in record.validated_data.items() if value not in (None, "")}
        task = Task(**fields, user_id=user_id(request))
        if task.status in ENDED:
            task.ended_at = now()
        try:
            with transaction.atomic():
                lifecycle.create(task)
        except IntegrityError as error:
            raise RecordExists from error
        self.note_task(task)
        return Response({"id": task.pk})

    @extend_schema(
        "changeRecord",
        request=RecordChangeSerializer,
        responses={
            200: TaskSerializer,
            **errors(*BODY_ERRORS, TaskNotFound, RecordUnavailable, of_task=[InvalidTransition(task_id="", status="")]),
        },
        examples=[
            OpenApiExample("It began", {"id": TASK_ID, "status": "running", "queue_id": TASK_ID}, request_only=True),
            OpenApiExample("It runs", RUNNING_RECORD, response_only=True),
        ],
    )
    def put(self, request: Request) -> Response:
        """Change a record."""
        record = RecordChangeSerializer(data=request.data)
        record.is_valid(raise_exception=True)
        change = dict(record.validated_data)
        task = submission.get(change.pop("id"))
        self.note_task(task)
        if change.get("outputs") in ({}, []) and task.outputs is not None:
            del change["outputs"]
        return Response(task_object(lifecycle.apply(task, **change)))


class ModelStatusView(APIView):
    """List a model's tasks with a status, the newest first.

    The fields may be in a JSON body instead of the query.
    """

    permission_classes = [IsRecordClient]

    @extend_schema(
        "listByStatus",
        parameters=[ModelStatusSerializer],
        examples=[
            OpenApiExample("A model", "iris", parameter_only=("model_name", "query")),
            OpenApiExample("Ended", "succeeded", parameter_only=("status", "query")),
            OpenApiExample("One task", LISTED_TASK),
        ],
        responses={200: ListedTaskSerializer(many=True), **errors(*BODY_ERRORS, RecordUnavailable)},
    )
    def get(self, request: Request) -> StreamingHttpResponse:
        query = ModelStatusSerializer(data=query_or_body(request))
        query.is_valid(raise_exception=True)
        pages = _pages(Task.objects.newest(**query.validated_data).defer("inputs", "outputs"))
        first = next(pages)  # an unavailable database is still a 503
        return StreamingHttpResponse(_as_json_list(chain([first], pages)), content_type="application/json")


def _pages(tasks: TaskQuerySet) -> Iterator[list[Task]]:
    """The tasks, newest first, MODEL_STATUS_PAGE at a time and at least one page. Raises RecordUnavailable."""
    tasks = tasks.order_by(*tasks.query.order_by, "-pk")
    older = tasks
    while True:
        with database_errors():
            page = list(older[:MODEL_STATUS_PAGE])
        release_connection()  # the caller may read slowly
        yield page
        if len(page) < MODEL_STATUS_PAGE:
            return
        last = page[-1]
        older = tasks.filter(created_at__lte=last.created_at).exclude(created_at=last.created_at, pk__gte=last.pk)


def _as_json_list(pages: Iterable[list[Task]]) -> Iterator[bytes]:
    """One JSON list, a piece for each page."""
    separator = b"["
    for page in pages:
        if page:
            yield separator + b",".join(dumps(row) for row in ListedTaskSerializer(page, many=True).data)
            separator = b","
    yield b"]" if separator == b"," else b"[]"
