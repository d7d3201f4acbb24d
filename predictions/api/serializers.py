"""What comes in as a prediction, and what goes out as a task."""

import re
from datetime import datetime
from typing import Any

from rest_framework import serializers

from predictions.models import Task

_SURROGATE = re.compile("[\ud800-\udfff]")


class ObjectField(serializers.JSONField):
    """A JSON object; it may be empty."""

    default_error_messages = {"not_an_object": "This must be a JSON object."}

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, dict):
            self.fail("not_an_object")
        return data


class StrictCharField(serializers.CharField):
    """Text, and nothing that merely looks like it: no numbers, which DRF takes too, and no half of a character."""

    default_error_messages = {"half_a_character": "This has half a surrogate pair in it, which is no text."}

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        if not data.isascii() and _SURROGATE.search(data):
            self.fail("half_a_character")
        return super().to_internal_value(data)


class PredictionSerializer(serializers.Serializer[Any]):
    """The body of a prediction request. Unknown keys are ignored."""

    default_error_messages = {"null": "No data provided"}

    model_name = StrictCharField(max_length=200)
    inputs = ObjectField()
    model_version = StrictCharField(max_length=100, required=False, allow_blank=True, allow_null=True, default="")

    def validate_model_version(self, value: str | None) -> str:
        return value or ""


def running_time_text(seconds: float | None) -> str:
    """`running_time` as it goes out: `"0.014671s"`, or `""` while there is none."""
    return "" if seconds is None else f"{seconds:.6f}s"


def time_text(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC."""
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


def task_object(task: Task) -> dict[str, Any]:
    """The task as callers and record clients read it. The first ten keys are the wire's; others only follow them."""
    return {
        "id": task.pk,
        "model_name": task.model_name,
        "model_version": task.model_version,
        "status": str(task.status),
        "running_time": running_time_text(task.running_time),
        "created_at": time_text(task.created_at),
        "outputs": task.outputs,
        "error_info": task.error_info,
        "queue_num": task.queue_num,
        "queue_id": task.queue_id,
        "started_at": time_text(task.started_at),
        "ended_at": time_text(task.ended_at),
        "attempt": task.attempt,
        "platform": task.platform,
    }
