"""Predictions: sync and async."""

from contextlib import suppress

from django.http import HttpResponse
from rest_framework.request import Request

from predictions import submission
from predictions.api.disconnect import caller_is_gone
from predictions.api.requests import answered
from predictions.api.serializers import PredictionSerializer, task_object
from predictions.api.views import TaskAPIView
from predictions.submission import PredictionRequest

UID_LENGTH = 200
BODY = PredictionSerializer()
"""Says what is wrong with a body, and keeps nothing of it: made once, as its fields cost more than they check."""


def user_id(request: Request) -> str:
    """The UID header: whose task it is."""
    given: str = request.META.get("HTTP_UID", "")
    with suppress(UnicodeError):  # WSGI hands on UTF-8 as if it were Latin-1
        given = given.encode("latin-1").decode()
    return given[:UID_LENGTH]


def prediction_request(request: Request) -> PredictionRequest:
    """What the body and the headers ask for. Raises ValidationError."""
    return PredictionRequest(**BODY.run_validation(request.data), user_id=user_id(request))


class PredictView(TaskAPIView):
    """`POST /v1/predict`: run it now and answer the ended task."""

    def post(self, request: Request) -> HttpResponse:
        prediction = prediction_request(request)
        task = submission.predict(prediction, caller_is_gone=caller_is_gone(request), on_task=self.note_task)
        return answered(task_object(task))


class AsyncPredictView(TaskAPIView):
    """`POST /async/v1/predict`: queue it and answer its id."""

    def post(self, request: Request) -> HttpResponse:
        task = submission.submit(prediction_request(request), on_task=self.note_task)
        return answered({"id": task.pk})
