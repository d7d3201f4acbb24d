"""The base of views that answer about one task."""

from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from predictions.models import Task


class TaskAPIView(APIView):
    """Puts the task's id into `X-Task-ID` of every answer, and into `task_id` of an error (errors.py)."""

    task: Task | None = None
    """The answer's task, once the view knows it."""

    def note_task(self, task: Task) -> None:
        self.task = task

    @property
    def task_id(self) -> str:
        """Empty without a task on record."""
        return self.task.pk if self.task is not None and self.task.is_on_record else ""

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        response = super().finalize_response(request, response, *args, **kwargs)
        if self.task_id:
            response.headers["X-Task-ID"] = self.task_id
        return response
