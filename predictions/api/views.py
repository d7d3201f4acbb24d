"""The base of views whose answers are about one task."""

from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from predictions.models import Task


class TaskAPIView(APIView):
    """Names the task in `X-Task-ID` of every answer, and in `task_id` of an error's body (errors.py)."""

    task: Task | None = None
    """The task that the answer is about, once the view knows it."""

    def note_task(self, task: Task) -> None:
        self.task = task

    @property
    def task_id(self) -> str:
        """Empty where there is no task, or none on record."""
        return self.task.pk if self.task is not None and self.task.is_on_record else ""

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        response = super().finalize_response(request, response, *args, **kwargs)
        if self.task_id:
            response.headers["X-Task-ID"] = self.task_id
        return response
