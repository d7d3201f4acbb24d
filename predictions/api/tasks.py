"""Tasks: read one, cancel one."""

from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from predictions import submission
from predictions.api.authentication import MayRead
from predictions.api.openapi import TASK_ID_IN_PATH, errors
from predictions.api.predictions import TaskAPIView
from predictions.api.requests import answered
from predictions.api.serializers import TaskIdSerializer, TaskSerializer, task_object
from predictions.recorder import RecordUnavailable
from predictions.submission import AlreadyFinished, NotOurs, TaskNotFound


class TaskView(TaskAPIView):
    """Read a task."""

    permission_classes = [MayRead]

    @extend_schema(
        "getTask",
        parameters=[TASK_ID_IN_PATH],
        responses={200: TaskSerializer, **errors(TaskNotFound, RecordUnavailable)},
    )
    def get(self, request: Request, task_id: str) -> HttpResponse:
        self.note_task(task := submission.get(task_id))
        return answered(task_object(task))


class CancelView(TaskAPIView):
    """Cancel a task.

    Answers 200 if the task was waiting, and 202 if it is running: the agent is then stopping its prediction. A canceled
    task stays canceled.
    """

    @extend_schema(
        "cancelTask",
        parameters=[TASK_ID_IN_PATH],
        responses={
            200: TaskIdSerializer,
            202: TaskIdSerializer,
            **errors(TaskNotFound, RecordUnavailable, of_task=[AlreadyFinished("succeeded"), NotOurs]),
        },
    )
    def post(self, request: Request, task_id: str) -> Response:
        was_running = submission.cancel(task_id, on_task=self.note_task)
        return Response({"id": task_id}, status=202 if was_running else 200)
