"""What the OpenAPI document says of the record service and of uploads; a test sends every example."""

from typing import Any

from drf_spectacular.extensions import OpenApiSerializerFieldExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiRequest, extend_schema_field
from rest_framework import exceptions, serializers

from predictions.api import openapi
from predictions.api.openapi import ANYBODY, Audience, answer, describe, operation, to_task
from predictions.api.schema.predictions import ENDED_TASK, RFC3339, TaskId, TaskObject
from predictions.lifecycle import InvalidTransition
from predictions.models import Task
from predictions.submission import TaskNotFound
from webhooks.multipart import NotKept, UploadTooLarge
from webhooks.permissions import IsRecordClient
from webhooks.records import (
    ModelStatusView,
    NewRecordSerializer,
    RecordChangeSerializer,
    RecordExists,
    RecordsView,
    RunningTimeField,
)
from webhooks.uploads import (
    MediaView,
    TokenUploadBatchView,
    TokenUploadView,
    UploadBatchView,
    UploadView,
)

RECORD_CLIENTS = Audience(
    ("recordKey",),
    (exceptions.NotAuthenticated(IsRecordClient.message), exceptions.PermissionDenied(IsRecordClient.message)),
)


class Seconds(OpenApiSerializerFieldExtension):
    target_class = RunningTimeField

    def map_serializer_field(self, auto_schema: AutoSchema, direction: str) -> dict[str, Any]:
        text = r"^\s*(\d{1,99}(\.\d*)?|\.\d+)([eE][+-]?\d\d?)?\s*[sS]?\s*$"
        unchanged = {"enum": ["", None]}
        return {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": text}, unchanged]}


@extend_schema_field({"type": "string", "format": "binary", "minLength": 1})
class FilePart(serializers.FileField):
    """A file with something in it."""


class UploadForm(serializers.Serializer[Any]):
    file = FilePart()


class BatchForm(serializers.Serializer[Any]):
    file_0 = FilePart()
    file_1 = FilePart(required=False)


class ModelStatus(serializers.Serializer[Any]):
    id = serializers.CharField()
    task_id = serializers.CharField()
    user_id = serializers.CharField()
    model_name = serializers.CharField()
    created_at = serializers.RegexField(RFC3339)
    updated_at = serializers.RegexField(RFC3339)
    running_time = serializers.FloatField(min_value=0, help_text="Seconds; 0 while that is not known.")
    status = serializers.ChoiceField(Task.Status.choices)


class FileAddress(serializers.Serializer[Any]):
    url = serializers.CharField(help_text="Where the file can be read.")


class FileAddresses(serializers.Serializer[Any]):
    urls = serializers.ListField(child=serializers.CharField())


NEW_RECORD = {"id": "agent-7.42", "model_name": "iris", "queue_num": 3}
CHANGE = {"id": "agent-7.42", "status": "running", "queue_id": "agent-7.42"}
CHANGED = {
    **ENDED_TASK,
    "id": "agent-7.42",
    "status": "running",
    "running_time": "",
    "outputs": None,
    "queue_num": 3,
    "queue_id": "agent-7.42",
    "ended_at": None,
    "platform": "",
}
describe(
    RecordsView,
    post=operation(
        "createRecord",
        tag="Records",
        who=RECORD_CLIENTS,
        summary="Keep a record of a task",
        description="For agents that run their tasks themselves. `status` is `pending` unless said otherwise.",
        parameters=[openapi.USER_ID],
        request=openapi.json_request(NewRecordSerializer, OpenApiExample("A task that waits", NEW_RECORD)),
        answers={200: answer(TaskId, "The record's id.", OpenApiExample("Its id", {"id": "agent-7.42"}))},
        errors=[*openapi.BODY_ERRORS, RecordExists(), openapi.NO_DATABASE],
        links={
            "read": to_task("getTask", "The record."),
            "change": {
                "operationId": "changeRecord",
                "description": "Changes the record.",
                "requestBody": {"id": "$response.body#/id", "status": "running"},
            },
        },
    ),
    put=operation(
        "changeRecord",
        tag="Records",
        who=RECORD_CLIENTS,
        summary="Change a record",
        description="What is missing, null or empty stays as it is.",
        request=openapi.json_request(RecordChangeSerializer, OpenApiExample("It began", CHANGE)),
        answers={200: answer(TaskObject, "The task as it stands now.", OpenApiExample("It runs", CHANGED))},
        errors=[*openapi.BODY_ERRORS, TaskNotFound(), openapi.NO_DATABASE],
        task_errors=[InvalidTransition("", "")],
        links={"read": to_task("getTask", "The record.")},
    ),
)
describe(
    ModelStatusView,
    get=operation(
        "listByStatus",
        tag="Records",
        who=RECORD_CLIENTS,
        summary="The tasks of a model in a status",
        description="All of them, the newest first. The same may be asked in a JSON body.",
        parameters=[
            OpenApiParameter(
                "model_name", openapi.MODEL_NAME, required=True, examples=[OpenApiExample("A model", "iris")]
            ),
            OpenApiParameter(
                "status", str, required=True, enum=Task.Status.values, examples=[OpenApiExample("Ended", "succeeded")]
            ),
        ],
        answers={
            200: answer(
                ModelStatus(many=True),
                "The tasks; none is an empty list.",
                OpenApiExample(
                    "One task",
                    {
                        "id": openapi.TASK_ID,
                        "task_id": openapi.TASK_ID,
                        "user_id": "ann",
                        "model_name": "iris",
                        "created_at": "2026-11-22T17:26:25.295003Z",
                        "updated_at": "2026-11-22T17:26:25.298118Z",
                        "running_time": 0.001324,
                        "status": "succeeded",
                    },
                ),
            )
        },
        errors=[*openapi.BODY_ERRORS, openapi.NO_DATABASE],
    ),
)

URL = "http://agent.example.com/media/uploads/0b/0b54bd9e2a1a4d64a1a2f9d1d6a6f3c8"
FILE_MISSING = exceptions.ValidationError({"file": "send the file as the multipart part 'file'"})
FIRST_FILE_MISSING = exceptions.ValidationError({"file_0": "send the files as the multipart parts 'file_0', 'file_1'"})
UPLOAD_ERRORS = (UploadTooLarge(), openapi.NOT_JSON, NotKept())
ONE = {"multipart/form-data": OpenApiRequest(UploadForm, examples=[OpenApiExample("A file", {"file": "hello"})])}
SEVERAL = {
    "multipart/form-data": OpenApiRequest(
        BatchForm, examples=[OpenApiExample("Two files", {"file_0": "hello", "file_1": "world"})]
    )
}
ADDRESS = {200: answer(FileAddress, "Where the file can be read.", OpenApiExample("An address", {"url": URL}))}
ADDRESSES = {
    200: answer(FileAddresses, "In the order of the parts.", OpenApiExample("Two addresses", {"urls": [URL, URL]}))
}
IN_ORDER = "The parts are `file_0`, `file_1` and so on, without a gap."
TOKEN = OpenApiParameter(
    "token",
    str,
    OpenApiParameter.PATH,
    description="Part of the address that the agent gives to a task's model as `upload_webhook`. Good while it runs.",
    examples=[OpenApiExample("A token", f"{openapi.TASK_ID}~c0VXb4bEiaPiVNMFR0bzuvC_SmSzLBFdNhV8IsUAe2M")],
)
describe(
    UploadView,
    post=operation(
        "upload",
        tag="Uploads",
        who=RECORD_CLIENTS,
        summary="Keep a file",
        request=ONE,
        answers=ADDRESS,
        errors=[FILE_MISSING, *UPLOAD_ERRORS],
    ),
)
describe(
    UploadBatchView,
    post=operation(
        "uploadBatch",
        tag="Uploads",
        who=RECORD_CLIENTS,
        summary="Keep several files",
        description=IN_ORDER,
        request=SEVERAL,
        answers=ADDRESSES,
        errors=[FIRST_FILE_MISSING, *UPLOAD_ERRORS],
    ),
)
describe(
    TokenUploadView,
    post=operation(
        "uploadOfTask",
        tag="Uploads",
        who=ANYBODY,
        summary="Keep a file of a task",
        description="For the task's model, which has no key. The file is deleted with its task.",
        parameters=[TOKEN],
        request=ONE,
        answers=ADDRESS,
        errors=[FILE_MISSING, TaskNotFound(), *UPLOAD_ERRORS],
    ),
)
describe(
    TokenUploadBatchView,
    post=operation(
        "uploadBatchOfTask",
        tag="Uploads",
        who=ANYBODY,
        summary="Keep several files of a task",
        description=IN_ORDER,
        parameters=[TOKEN],
        request=SEVERAL,
        answers=ADDRESSES,
        errors=[FIRST_FILE_MISSING, TaskNotFound(), *UPLOAD_ERRORS],
    ),
)
describe(
    MediaView,
    get=operation(
        "getFile",
        tag="Uploads",
        who=ANYBODY,
        summary="An uploaded file",
        description="Sent as an attachment that cannot run in the agent's origin. Who knows its name may read it.",
        parameters=[
            OpenApiParameter("name", str, OpenApiParameter.PATH, examples=[OpenApiExample("A name", URL[-41:])])
        ],
        answers={
            (200, "*/*"): answer({"type": "string", "format": "binary"}, "The file."),
            302: answer(None, "It is in S3: `Location` has its address there, good for a while."),
        },
        errors=[openapi.NOT_SERVED],
    ),
)
