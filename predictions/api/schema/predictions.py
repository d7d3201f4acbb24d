"""What the document says of predictions and tasks."""

from typing import Any

from drf_spectacular.utils import OpenApiExample, OpenApiParameter
from rest_framework import serializers

from predictions.api import openapi
from predictions.api.docs import DocsView
from predictions.api.openapi import CALLERS, COUNT, READERS, UNAVAILABLE, answer, describe, operation, to_task
from predictions.api.predictions import AsyncPredictView, PredictView
from predictions.api.serializers import PredictionSerializer
from predictions.api.streaming import GenerateView
from predictions.api.tasks import CancelView, TaskView
from predictions.execution.runner import TaskCanceled
from predictions.models import Task
from predictions.queue.queue import QueueFull
from predictions.submission import AlreadyFinished, NotOurs, TaskNotFound

RFC3339 = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$"


class TaskObject(serializers.Serializer[Any]):
    """`task_object`, as callers read it."""

    id = serializers.CharField(max_length=64)
    model_name = serializers.CharField()
    model_version = serializers.CharField(help_text='"" where none was asked for.')
    status = serializers.ChoiceField(Task.Status.choices)
    running_time = serializers.RegexField(
        r"^(\d+\.\d{6}s)?$", help_text='What the prediction took: `"0.014671s"`, or `""` while that is not known.'
    )
    created_at = serializers.RegexField(RFC3339, help_text="RFC 3339, in UTC.")
    outputs = serializers.JSONField(help_text="What the model answered; the text of a stream.")
    error_info = serializers.CharField(help_text="Why it failed.")
    queue_num = serializers.IntegerField(
        allow_null=True, min_value=0, help_text="The queue's size when the task was submitted; null if it was not."
    )
    queue_id = serializers.CharField(help_text="The queue's job.")
    started_at = serializers.RegexField(RFC3339, allow_null=True)
    ended_at = serializers.RegexField(RFC3339, allow_null=True)
    attempt = serializers.IntegerField(min_value=0, help_text="How often a worker has begun it.")
    platform = serializers.CharField(help_text="What ran it; empty in a record that another agent keeps here.")


class TaskId(serializers.Serializer[Any]):
    id = serializers.CharField(max_length=64)


FLOWER = {"model_name": "iris", "inputs": {"instances": [[5.1, 3.5, 1.4, 0.2]]}}
ENDED_TASK = {
    "id": openapi.TASK_ID,
    "model_name": "iris",
    "model_version": "",
    "status": "succeeded",
    "running_time": "0.001324s",
    "created_at": "2026-11-22T17:26:25.295003Z",
    "outputs": {
        "predictions": [
            {
                "species": "setosa",
                "class": 0,
                "probabilities": {"setosa": 0.996989, "versicolor": 0.003011, "virginica": 0.0},
            }
        ]
    },
    "error_info": "",
    "queue_num": None,
    "queue_id": "",
    "started_at": "2026-11-22T17:26:25.295003Z",
    "ended_at": "2026-11-22T17:26:25.298118Z",
    "attempt": 1,
    "platform": "local",
}
ONE_FLOWER = OpenApiExample("One flower", FLOWER)
ITS_SPECIES = OpenApiExample("Its species", ENDED_TASK)
A_TASKS_ID = OpenApiExample("A task's id", {"id": openapi.TASK_ID})
READ_IT = {"read": to_task("getTask", "The task."), "cancel": to_task("cancelTask", "Cancels the task.")}

describe(
    PredictView,
    post=operation(
        "predict",
        tag="Predictions",
        who=CALLERS,
        summary="Sync prediction",
        description="Waits for the prediction, and answers the ended task. When the caller hangs up, the prediction is "
        "ended and the task canceled, unless `ON_DISCONNECT=finish` lets it run to its end.",
        parameters=[openapi.USER_ID],
        request=openapi.json_request(PredictionSerializer, ONE_FLOWER),
        answers={200: answer(TaskObject, "The ended task.", ITS_SPECIES)},
        errors=[*openapi.BODY_ERRORS, openapi.NO_DATABASE],
        task_errors=[*openapi.PLATFORM_ERRORS, TaskCanceled("")],
        links={"read": READ_IT["read"]},
    ),
)
describe(
    AsyncPredictView,
    post=operation(
        "submit",
        tag="Predictions",
        who=CALLERS,
        summary="Async prediction",
        description="Queues the prediction and answers its task's id at once. The queue has a hard bound.",
        parameters=[openapi.USER_ID],
        request=openapi.json_request(PredictionSerializer, ONE_FLOWER),
        answers={200: answer(TaskId, "The task's id.", A_TASKS_ID)},
        errors=[*openapi.BODY_ERRORS, QueueFull(30), *UNAVAILABLE],
        links=READ_IT,
    ),
)

PIECE = {
    "type": "object",
    "properties": {
        "id": COUNT,
        "data": {"type": "string"},
        "error": {"type": "string"},
        "code": {"type": "string"},
    },
    "required": ["id", "data"],
}
EVENT = {
    "type": "object",
    "description": "Each event. Its data is text, and that of an `error` event JSON with the keys of a line.",
    "properties": {
        "id": {"type": "string", "pattern": r"^\d+$"},
        "event": {"type": "string", "enum": ["message", "done", "error"]},
        "data": {"type": "string"},
    },
    "required": ["id", "data"],
}
STREAMS = """\
Relays each piece the moment it comes: a line of JSON each, `{"id": 0, "data": "…"}`, or server-sent events where
`Accept` says `text/event-stream` (`id:`, `data:`, at the end `event: done`). What fails before the first piece is an
ordinary error; a stream that breaks off later ends with a message that has `error` and `code` (`event: error`). When
the caller hangs up, the task is canceled, unless `ON_DISCONNECT=finish` lets it run to its end."""

describe(
    GenerateView,
    post=operation(
        "generate",
        tag="Predictions",
        who=CALLERS,
        summary="Streaming prediction",
        description=STREAMS,
        parameters=[openapi.USER_ID],
        request=openapi.json_request(
            PredictionSerializer, OpenApiExample("A prompt", {"model_name": "writer", "inputs": {"prompt": "Once"}})
        ),
        answers={
            (200, "application/x-ndjson"): answer(
                {**PIECE, "description": "Each line."},
                "The pieces.",
                OpenApiExample("Two pieces", '{"id":0,"data":"upon"}\n{"id":1,"data":" a time"}\n'),
            ),
            (200, "text/event-stream"): answer(
                EVENT,
                "The pieces.",
                OpenApiExample(
                    "Two pieces",
                    "id: 0\ndata: upon\n\nid: 1\ndata:  a time\n\nid: 2\nevent: done\ndata: \n\n",
                ),
            ),
        },
        errors=[*openapi.BODY_ERRORS, openapi.NO_DATABASE],
        task_errors=[*openapi.PLATFORM_ERRORS, openapi.UNSUPPORTED, TaskCanceled("")],
        links={
            "read": to_task("getTask", "The task.", "$response.header.X-Task-ID"),
            "cancel": to_task("cancelTask", "Cancels the task.", "$response.header.X-Task-ID"),
        },
    ),
)
describe(
    DocsView,
    get=operation(
        "describeModel",
        tag="Predictions",
        who=CALLERS,
        summary="A model's inputs",
        description="The model's own description of its inputs, as its platform has it. The same may be asked in a "
        'JSON body: `{"model_name": "iris"}`.',
        parameters=[
            OpenApiParameter(
                "model_name",
                openapi.MODEL_NAME,
                required=True,
                examples=[OpenApiExample("The example model", "iris")],
            )
        ],
        answers={
            200: answer(
                {"description": "As the platform has it."},
                "The description.",
                OpenApiExample(
                    "The example model",
                    {
                        "instances": {
                            "type": "list of lists of 4 numbers: sepal length, sepal width, petal length, petal width, "
                            "in cm",
                            "description": "The flowers to classify, 10,000 at most.",
                            "default": [[5.1, 3.5, 1.4, 0.2]],
                        },
                        "delay_seconds": {
                            "type": "number of seconds from 0 to 300",
                            "description": "How long to wait before answering, to try out queueing, progress and "
                            "cancelling.",
                            "default": 0,
                        },
                    },
                ),
            )
        },
        errors=[*openapi.BODY_ERRORS, *openapi.PLATFORM_ERRORS, openapi.UNSUPPORTED],
    ),
)

describe(
    TaskView,
    get=operation(
        "getTask",
        tag="Tasks",
        who=READERS,
        summary="Read a task",
        parameters=[openapi.TASK_ID_IN_PATH],
        answers={200: answer(TaskObject, "The task as it stands.", ITS_SPECIES)},
        errors=[TaskNotFound(), openapi.NO_DATABASE],
        links={"cancel": READ_IT["cancel"]},
    ),
)
describe(
    CancelView,
    post=operation(
        "cancelTask",
        tag="Tasks",
        who=CALLERS,
        summary="Cancel a task",
        description="A canceled task never becomes anything else.",
        parameters=[openapi.TASK_ID_IN_PATH],
        answers={
            200: answer(TaskId, "It was waiting, and is canceled.", A_TASKS_ID),
            202: answer(TaskId, "It was running: its prediction is being ended.", A_TASKS_ID),
        },
        errors=[TaskNotFound(), openapi.NO_DATABASE],
        task_errors=[AlreadyFinished("succeeded"), NotOurs()],
        links={"read": READ_IT["read"]},
    ),
)
