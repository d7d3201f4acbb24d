"""Tasks: read one, cancel one."""

from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from predictions import submission
from predictions.api.authentication import MayRead
from predictions.api.requests import answered
from predictions.api.serializers import task_object
from predictions.api.views import TaskAPIView


class TaskView(TaskAPIView):
    """`GET /task/{id}`."""

    permission_classes = [MayRead]

    def get(self, request: Request, task_id: str) -> HttpResponse:
        self.note_task(task := submission.get(task_id))
        return answered(task_object(task))


class CancelView(TaskAPIView):
    """`POST /cancel/{id}`: 200 when it was waiting, 202 when its prediction is being ended."""

    def post(self, request: Request, task_id: str) -> Response:
        was_running = submission.cancel(task_id, on_task=self.note_task)
        return Response({"id": task_id}, status=202 if was_running else 200)
