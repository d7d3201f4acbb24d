"""Predictions, sync and async, and the base of all views that answer about one task."""

import select
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from gevent.monkey import get_original
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from predictions import submission
from predictions.api.openapi import BODY_ERRORS, PLATFORM_ERRORS, USER_ID, errors
from predictions.api.requests import answered
from predictions.api.serializers import PredictionSerializer, TaskIdSerializer, TaskSerializer, task_object
from predictions.execution.runner import TaskCanceled
from predictions.models import Task
from predictions.queue.queue import QueueFull
from predictions.recorder import RecordUnavailable
from predictions.redis.errors import QueueUnavailable
from predictions.submission import PredictionRequest

UID_LENGTH = 200
BODY = PredictionSerializer()
"""Validates all bodies: creating its fields for each body would cost more than the validation."""


def user_id(request: Request) -> str:
    """The end user, from the UID header."""
    given: str = request.META.get("HTTP_UID", "")
    with suppress(UnicodeError):  # WSGI decodes UTF-8 as Latin-1
        given = given.encode("latin-1").decode()
    return given[:UID_LENGTH]


def prediction_request(request: Request) -> PredictionRequest:
    """The prediction that the body and headers describe. Raises ValidationError."""
    return PredictionRequest(**BODY.run_validation(request.data), user_id=user_id(request))


def caller_is_gone(request: Request) -> Callable[[], bool] | None:
    """A check whether the caller has closed its side of the connection, or only its sending half.

    Each check costs one system call. None with ON_DISCONNECT=finish: the prediction then runs to its end.
    """
    if settings.ON_DISCONNECT == "finish":
        return None
    sock = request.META.get("gunicorn.socket")
    poll: Any = None

    def is_gone() -> bool:
        nonlocal poll
        if not isinstance(sock, socket.socket):
            return False
        try:
            if poll is None:
                # Polls and never reads: under gevent a read may wait, and the server's own read then fails. The
                # system's poll, because gevent's switches greenlets and does not know POLLRDHUP.
                poll = get_original("select", "poll")()
                poll.register(sock, select.POLLRDHUP)
            return bool(poll.poll(0))
        except (OSError, ValueError):  # this side is closed too
            return True

    return is_gone


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


class PredictView(TaskAPIView):
    """Run a prediction and wait for it.

    Answers the ended task. When the caller hangs up, the agent stops the prediction and cancels the task. With
    `ON_DISCONNECT=finish` the prediction runs to its end.
    """

    @extend_schema(
        "predict",
        parameters=[USER_ID],
        request=PredictionSerializer,
        responses={
            200: TaskSerializer,
            **errors(*BODY_ERRORS, RecordUnavailable, of_task=[*PLATFORM_ERRORS, TaskCanceled]),
        },
    )
    def post(self, request: Request) -> HttpResponse:
        prediction = prediction_request(request)
        task = submission.predict(prediction, caller_is_gone=caller_is_gone(request), on_task=self.note_task)
        return answered(task_object(task))


class AsyncPredictView(TaskAPIView):
    """Queue a prediction.

    Answers the task's id at once. At most `MAX_QUEUE_SIZE` tasks wait.
    """

    @extend_schema(
        "submit",
        parameters=[USER_ID],
        request=PredictionSerializer,
        responses={
            200: TaskIdSerializer,
            **errors(*BODY_ERRORS, QueueFull(size=30), QueueUnavailable, RecordUnavailable),
        },
    )
    def post(self, request: Request) -> HttpResponse:
        task = submission.submit(prediction_request(request), on_task=self.note_task)
        return answered({"id": task.pk})
