"""Predictions: sync and async."""

from contextlib import suppress

from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from predictions import submission
from predictions.api.disconnect import caller_is_gone
from predictions.api.openapi import BODY_ERRORS, PLATFORM_ERRORS, USER_ID, errors
from predictions.api.requests import answered
from predictions.api.serializers import PredictionSerializer, TaskIdSerializer, TaskSerializer, task_object
from predictions.api.views import TaskAPIView
from predictions.execution.runner import TaskCanceled
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
            **errors(*BODY_ERRORS, RecordUnavailable, of_task=[*PLATFORM_ERRORS, TaskCanceled(task_id="")]),
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
