"""The queue, for callers who want to know and for operators."""

import logging

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from predictions import submission
from predictions.api.authentication import Caller, IsOperator, KeyAuthentication, StaffSession
from predictions.queue import queue

logger = logging.getLogger(__name__)


class QueueSizeView(APIView):
    """`GET /v1/queue_size`."""

    def get(self, request: Request) -> Response:
        return Response({"queue_size": queue.sizes().waiting})


class UnfinishedView(APIView):
    """`GET /unfinished`."""

    def get(self, request: Request) -> Response:
        sizes = queue.sizes()
        unfinished = sizes.waiting + sizes.running
        return Response({"num of unfinished tasks": unfinished, "unfinished": unfinished})


class OperatorView(APIView):
    """Base of what only operators may do."""

    authentication_classes = [KeyAuthentication, StaffSession]
    permission_classes = [IsOperator]

    def who(self, request: Request) -> str:
        return "an operator key" if isinstance(request.user, Caller) else str(request.user)


class PauseView(OperatorView):
    """`POST /pause`: tasks are accepted, but not handed to workers."""

    def post(self, request: Request) -> Response:
        queue.pause(self.who(request))
        logger.warning("queue paused by %s", self.who(request))
        return Response({"paused": True})


class UnpauseView(OperatorView):
    """`POST /unpause`."""

    def post(self, request: Request) -> Response:
        queue.resume()
        logger.warning("queue resumed by %s", self.who(request))
        return Response({"paused": False})


class DeletePendingView(OperatorView):
    """`POST /delete_pending`: cancel every task that waits."""

    def post(self, request: Request) -> Response:
        waiting, canceled = submission.cancel_pending()
        logger.warning("%d of %d waiting tasks canceled by %s", canceled, waiting, self.who(request))
        return Response({"num_of_pending_tasks": waiting, "num_of_deleted_tasks": canceled})
