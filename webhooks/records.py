"""The record service: tasks of this and of other agents, created and changed over HTTP.

The wire is fixed (docs/reference.md, "Record service"); changes go through predictions.lifecycle like any other.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from django.core.validators import RegexValidator
from django.db import IntegrityError, transaction
from django.http import StreamingHttpResponse
from django.utils.timezone import now
from rest_framework import serializers
from rest_framework.exceptions import APIException
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from platforms.base import parse_running_time
from platforms.parsing import written
from predictions import lifecycle, submission
from predictions.api.predictions import user_id
from predictions.api.serializers import StrictCharField, task_object, time_text
from predictions.api.views import TaskAPIView
from predictions.database.errors import database_errors, release_connection
from predictions.models import ENDED, Task, TaskQuerySet
from webhooks.permissions import IsRecordClient

MODEL_STATUS_PAGE = 1000
STATUSES = Task.Status.choices


class RecordExists(APIException):
    status_code = 409
    default_code = "already_exists"
    default_detail = "a task with this id exists"


class RunningTimeField(serializers.Field[Any, Any, Any, Any]):
    """`"0.0146s"`, `"3.98e-05s"` or a number of seconds."""

    def to_internal_value(self, data: Any) -> float:
        seconds = parse_running_time(data)
        if seconds is None:
            raise serializers.ValidationError('Write seconds, such as "0.0146s".')
        return seconds


class StrictIntegerField(serializers.IntegerField):
    """A number, and nothing that merely looks like it (DRF takes text too)."""

    def to_internal_value(self, data: Any) -> int:
        if not isinstance(data, int | float):
            self.fail("invalid")
        return super().to_internal_value(data)  # refuses booleans and fractions


class NewRecordSerializer(serializers.Serializer[Any]):
    id = StrictCharField(validators=[RegexValidator(f"^{submission.TASK_ID.pattern}$")])
    model_name = StrictCharField(max_length=200)
    model_version = StrictCharField(max_length=100, required=False, allow_blank=True, allow_null=True)
    queue_num = StrictIntegerField(required=False, allow_null=True, min_value=0, max_value=2**31 - 1)
    status = serializers.ChoiceField(STATUSES, required=False, allow_blank=True, allow_null=True)


class RecordChangeSerializer(serializers.Serializer[Any]):
    """Empty or missing means unchanged. The wire's `database_only` is left unread: there is no one else to tell."""

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


class ModelStatusSerializer(serializers.Serializer[Any]):
    model_name = StrictCharField(max_length=200)
    status = serializers.ChoiceField(STATUSES)


class RecordsView(TaskAPIView):
    """`POST /task` creates a record, `PUT /task` changes it."""

    permission_classes = [IsRecordClient]

    def post(self, request: Request) -> Response:
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

    def put(self, request: Request) -> Response:
        record = RecordChangeSerializer(data=request.data)
        record.is_valid(raise_exception=True)
        change = dict(record.validated_data)
        task = submission.get(change.pop("id"))
        self.note_task(task)
        if change.get("outputs") in ({}, []) and task.outputs is not None:
            del change["outputs"]
        return Response(task_object(lifecycle.apply(task, **change)))


class ModelStatusView(APIView):
    """`GET /task/modelstatus`: all tasks of a model in a status, newest first; asked in a JSON body or in the query."""

    permission_classes = [IsRecordClient]

    def get(self, request: Request) -> StreamingHttpResponse:
        body = request.data if isinstance(request.data, dict) else {}
        asked = {**body, **request.query_params.dict()}
        query = ModelStatusSerializer(data=asked)
        query.is_valid(raise_exception=True)
        pages = _pages(Task.objects.newest(**query.validated_data).defer("inputs", "outputs"))
        first = next(pages)  # a database that is away is still a 503
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
            yield separator + b",".join(written(_model_status(task)) for task in page)
            separator = b","
    yield b"]" if separator == b"," else b"[]"


def _model_status(task: Task) -> dict[str, Any]:
    return {
        "id": task.pk,
        "task_id": task.pk,
        "user_id": task.user_id,
        "model_name": task.model_name,
        "created_at": time_text(task.created_at),
        "updated_at": time_text(task.updated_at),
        "running_time": task.running_time or 0.0,
        "status": str(task.status),
    }
