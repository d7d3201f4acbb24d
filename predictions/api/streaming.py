"""`POST /v1/generate`: a streamed prediction, as newline-delimited JSON or as server-sent events."""

import json
from collections.abc import Generator, Iterator
from itertools import chain
from typing import Any

from django.http import StreamingHttpResponse
from rest_framework.request import Request

from platforms import Chunk, PlatformError
from predictions import submission
from predictions.api.disconnect import caller_is_gone
from predictions.api.errors import describe
from predictions.api.predictions import prediction_request
from predictions.api.views import TaskAPIView
from predictions.execution.runner import TaskCanceled
from predictions.recorder import RecordError


class GenerateView(TaskAPIView):
    """Relays each piece the moment it comes. What fails before the first one is answered as an error."""

    def post(self, request: Request) -> StreamingHttpResponse:
        task, chunks = submission.stream(prediction_request(request), caller_is_gone=caller_is_gone(request))
        self.note_task(task)
        first = next(chunks, None)
        as_events = "text/event-stream" in request.headers.get("Accept", "")
        response = StreamingHttpResponse(
            _Messages(chain([first] if first else [], chunks), chunks, as_events=as_events),
            content_type="text/event-stream" if as_events else "application/x-ndjson",
        )
        response["Cache-Control"] = "no-store"
        response["X-Accel-Buffering"] = "no"  # nginx would otherwise hold pieces back
        return response


class _Messages:
    """Pieces as lines of the answer; the last message of a stream that failed says so."""

    def __init__(self, pieces: Iterator[Chunk], source: Generator[Chunk, None, None], *, as_events: bool) -> None:
        self._pieces = pieces
        self._source = source
        self._as_events = as_events

    def __iter__(self) -> Iterator[bytes]:
        last = -1
        try:
            for chunk in self._pieces:
                last = chunk.id
                yield self._message({"id": chunk.id, "data": chunk.data})
        except (PlatformError, TaskCanceled, RecordError) as error:
            yield self._message({"id": last + 1, "data": "", **describe(error)[1]}, event="error")
            return
        if self._as_events:
            yield self._message({"id": last + 1, "data": ""}, event="done")

    def close(self) -> None:
        """Called when the caller left, or all is sent: ends the platform's side, or reads it to its end."""
        self._source.close()

    def _message(self, message: dict[str, Any], *, event: str = "") -> bytes:
        if not self._as_events:
            return json.dumps(message, separators=(",", ":")).encode() + b"\n"
        text = message["data"] if event != "error" else json.dumps(message, separators=(",", ":"))
        text = text.encode("utf-8", "backslashreplace").decode().replace("\r\n", "\n").replace("\r", "\n")
        lines = [f"id: {message['id']}", *([f"event: {event}"] if event else [])]
        return "\n".join([*lines, *(f"data: {line}" for line in text.split("\n"))]).encode() + b"\n\n"
