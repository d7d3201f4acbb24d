"""Tasks: read one, cancel one."""

from django.http import HttpResponse
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from predictions import submission
from predictions.api.authentication import MayRead
from predictions.api.openapi import TASK_ID_IN_PATH, errors
from predictions.api.requests import answered
from predictions.api.serializers import TaskIdSerializer, TaskSerializer, task_object
from predictions.api.views import TaskAPIView
from predictions.recorder import RecordUnavailable
from predictions.submission import AlreadyFinished, NotOurs, TaskNotFound


class TaskView(TaskAPIView):
    """The task with its present status, and its outputs once it has ended."""

    permission_classes = [MayRead]

    @extend_schema(
        "getTask",
        tags=["Tasks"],
        summary="Read a task",
        parameters=[TASK_ID_IN_PATH],
        responses={200: OpenApiResponse(TaskSerializer, "The task."), **errors(TaskNotFound, RecordUnavailable)},
    )
    def get(self, request: Request, task_id: str) -> HttpResponse:
        self.note_task(task := submission.get(task_id))
        return answered(task_object(task))


class CancelView(TaskAPIView):
    """Takes a waiting task out of the queue, or stops a running prediction. A canceled task stays canceled."""

    @extend_schema(
        "cancelTask",
        tags=["Tasks"],
        summary="Cancel a task",
        parameters=[TASK_ID_IN_PATH],
        request=None,
        responses={
            200: OpenApiResponse(TaskIdSerializer, "The task was waiting and is canceled."),
            202: OpenApiResponse(TaskIdSerializer, "The task is running. The agent is stopping its prediction."),
            **errors(TaskNotFound, RecordUnavailable, of_task=[AlreadyFinished("succeeded"), NotOurs]),
        },
    )
    def post(self, request: Request, task_id: str) -> Response:
        was_running = submission.cancel(task_id, on_task=self.note_task)
        return Response({"id": task_id}, status=202 if was_running else 200)
