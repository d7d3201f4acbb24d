"""Tasks: read one, cancel one."""

from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from predictions import submission
from predictions.api.authentication import MayRead
from predictions.api.requests import answered
from predictions.api.serializers import task_object


class TaskView(APIView):
    """`GET /task/{id}`."""

    permission_classes = [MayRead]

    def get(self, request: Request, task_id: str) -> HttpResponse:
        return answered(task_object(submission.get(task_id)))


class CancelView(APIView):
    """`POST /cancel/{id}`: 200 when it had not begun, 202 when its prediction is being ended."""

    def post(self, request: Request, task_id: str) -> Response:
        was_running = submission.cancel(task_id)
        return Response({"id": task_id}, status=202 if was_running else 200)
