"""`POST /v1/generate`: a streamed prediction, as newline-delimited JSON or as server-sent events."""

import json
from collections.abc import Generator, Iterator
from itertools import chain
from typing import Any

from django.http import StreamingHttpResponse
from drf_spectacular.utils import OpenApiExample, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.request import Request

from platforms import Chunk, PlatformError, Unsupported
from predictions import submission
from predictions.api.errors import describe
from predictions.api.openapi import BODY_ERRORS, PLATFORM_ERRORS, USER_ID, errors
from predictions.api.predictions import TaskAPIView, caller_is_gone, prediction_request
from predictions.api.serializers import PredictionSerializer
from predictions.execution.runner import TaskCanceled
from predictions.recorder import RecordError, RecordUnavailable

PIECE = inline_serializer(
    "Piece",
    {
        "id": serializers.IntegerField(min_value=0),
        "data": serializers.CharField(),
        "error": serializers.CharField(required=False),
        "code": serializers.CharField(required=False),
    },
)
EVENT = inline_serializer(
    "Event",
    {
        "id": serializers.RegexField(r"^\d+$"),
        "event": serializers.ChoiceField(["message", "done", "error"], required=False),
        "data": serializers.CharField(),
    },
)
LINES = '{"id":0,"data":"upon"}\n{"id":1,"data":" a time"}\n'
EVENTS = "id: 0\ndata: upon\n\nid: 1\ndata:  a time\n\nid: 2\nevent: done\ndata: \n\n"


class GenerateView(TaskAPIView):
    """Stream a prediction.

    Relays each piece as soon as the platform sends it: as a line of JSON, `{"id": 0, "data": "…"}`, or as a server-sent
    event if `Accept` says `text/event-stream` (`id:`, `data:`, at the end `event: done`). A failure before the first
    piece is an ordinary error. A stream that fails later ends with a message that has `error` and `code`
    (`event: error`). When the caller hangs up, the agent cancels the task. With `ON_DISCONNECT=finish` the prediction
    runs to its end.
    """

    @extend_schema(
        "generate",
        parameters=[USER_ID],
        request=PredictionSerializer,
        responses={
            (200, "application/x-ndjson"): PIECE,
            (200, "text/event-stream"): EVENT,
            **errors(
                *BODY_ERRORS,
                RecordUnavailable,
                of_task=[*PLATFORM_ERRORS, Unsupported("the local platform cannot stream"), TaskCanceled],
            ),
        },
        examples=[
            OpenApiExample("A prompt", {"model_name": "writer", "inputs": {"prompt": "Once"}}, request_only=True),
            OpenApiExample("Two pieces", LINES, media_type="application/x-ndjson", response_only=True),
            OpenApiExample("Two pieces", EVENTS, media_type="text/event-stream", response_only=True),
        ],
    )
    def post(self, request: Request) -> StreamingHttpResponse:
        task, pieces = submission.stream(prediction_request(request), caller_is_gone=caller_is_gone(request))
        self.note_task(task)
        first = next(pieces, None)  # an error here is an ordinary answer
        as_events = "text/event-stream" in request.headers.get("Accept", "")
        response = StreamingHttpResponse(
            _Messages(first, pieces, as_events=as_events),
            content_type="text/event-stream" if as_events else "application/x-ndjson",
        )
        response["Cache-Control"] = "no-store"
        response["X-Accel-Buffering"] = "no"  # without it nginx collects pieces
        return response


class _Messages:
    """The messages of the answer. The last message of a failed stream is its error."""

    def __init__(self, first: Chunk | None, others: Generator[Chunk, None, None], *, as_events: bool) -> None:
        self._first = [first] if first else []
        self._others = others
        self._as_events = as_events

    def __iter__(self) -> Iterator[bytes]:
        last = -1
        try:
            for chunk in chain(self._first, self._others):
                last = chunk.id
                yield self._message({"id": chunk.id, "data": chunk.data})
        except (PlatformError, TaskCanceled, RecordError) as error:
            yield self._message({"id": last + 1, "data": "", **describe(error)[1]}, event="error")
            return
        if self._as_events:
            yield self._message({"id": last + 1, "data": ""}, event="done")

    def close(self) -> None:
        """The server calls this at the end, or when the caller hangs up. Stops the platform, or reads it to its end."""
        self._others.close()

    def _message(self, message: dict[str, Any], *, event: str = "") -> bytes:
        if not self._as_events:
            return json.dumps(message, separators=(",", ":")).encode() + b"\n"
        text = message["data"] if event != "error" else json.dumps(message, separators=(",", ":"))
        text = text.encode("utf-8", "backslashreplace").decode().replace("\r\n", "\n").replace("\r", "\n")
        lines = [f"id: {message['id']}", *([f"event: {event}"] if event else [])]
        return "\n".join([*lines, *(f"data: {line}" for line in text.split("\n"))]).encode() + b"\n\n"
