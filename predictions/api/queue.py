"""The queue's size for callers, and its switches for operators."""

import logging
from functools import partial

from drf_spectacular.utils import OpenApiExample, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from predictions import submission
from predictions.api.authentication import Caller, IsOperator, KeyAuthentication, StaffSession
from predictions.api.openapi import errors
from predictions.queue import queue
from predictions.recorder import RecordUnavailable
from predictions.redis.errors import QueueUnavailable

logger = logging.getLogger(__name__)

count = partial(serializers.IntegerField, min_value=0)
PAUSED = inline_serializer("Paused", {"paused": serializers.BooleanField()})


class QueueSizeView(APIView):
    """Count the waiting tasks: scheduled, queued and retrying."""

    @extend_schema(
        "getQueueSize",
        responses={200: inline_serializer("QueueSize", {"queue_size": count()}), **errors(QueueUnavailable)},
        examples=[OpenApiExample("None", {"queue_size": 0})],
    )
    def get(self, request: Request) -> Response:
        return Response({"queue_size": queue.sizes().waiting})


class UnfinishedView(APIView):
    """Count the waiting and running tasks. Both keys have the same number."""

    @extend_schema(
        "getUnfinished",
        responses={
            200: inline_serializer("Unfinished", {"num of unfinished tasks": count(), "unfinished": count()}),
            **errors(QueueUnavailable),
        },
        examples=[OpenApiExample("None", {"num of unfinished tasks": 0, "unfinished": 0})],
    )
    def get(self, request: Request) -> Response:
        sizes = queue.sizes()
        unfinished = sizes.waiting + sizes.running
        return Response({"num of unfinished tasks": unfinished, "unfinished": unfinished})


class OperatorView(APIView):
    """Base of the operators' routes."""

    authentication_classes = [KeyAuthentication, StaffSession]
    permission_classes = [IsOperator]

    def who(self, request: Request) -> str:
        return "an operator key" if isinstance(request.user, Caller) else str(request.user)


class PauseView(OperatorView):
    """Pause the queue.

    Workers get no more tasks. The agent still accepts submissions, and running tasks continue.
    """

    @extend_schema(
        "pause",
        responses={200: PAUSED, **errors(QueueUnavailable)},
        examples=[OpenApiExample("Paused", {"paused": True})],
    )
    def post(self, request: Request) -> Response:
        queue.pause(self.who(request))
        logger.warning("queue paused by %s", self.who(request))
        return Response({"paused": True})


class UnpauseView(OperatorView):
    """Resume the queue."""

    @extend_schema(
        "unpause",
        responses={200: PAUSED, **errors(QueueUnavailable)},
        examples=[OpenApiExample("Resumed", {"paused": False})],
    )
    def post(self, request: Request) -> Response:
        queue.resume()
        logger.warning("queue resumed by %s", self.who(request))
        return Response({"paused": False})


class DeletePendingView(OperatorView):
    """Cancel all waiting tasks.

    A task that a worker takes at the same moment runs.
    """

    @extend_schema(
        "deletePending",
        responses={
            200: inline_serializer("Deleted", {"num_of_pending_tasks": count(), "num_of_deleted_tasks": count()}),
            **errors(QueueUnavailable, RecordUnavailable),
        },
        examples=[OpenApiExample("One waited", {"num_of_pending_tasks": 1, "num_of_deleted_tasks": 1})],
    )
    def post(self, request: Request) -> Response:
        waiting, canceled = submission.cancel_pending()
        logger.warning("%d of %d waiting tasks canceled by %s", canceled, waiting, self.who(request))
        return Response({"num_of_pending_tasks": waiting, "num_of_deleted_tasks": canceled})
