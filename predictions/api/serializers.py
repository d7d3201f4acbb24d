"""The bodies of predictions and tasks."""

import re
from datetime import datetime
from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from predictions.models import Task

TASK_ID = "4df7acfc-3c5b-4a55-9d3c-0b6a6f1f2c11"
"""The task of all examples in the OpenAPI document."""
PROBABILITIES = {"setosa": 0.996989, "versicolor": 0.003011, "virginica": 0.0}
EXAMPLE_TASK = {
    "id": TASK_ID,
    "model_name": "iris",
    "model_version": "",
    "status": "succeeded",
    "running_time": "0.001324s",
    "created_at": "2026-11-22T17:26:25.295003Z",
    "outputs": {"predictions": [{"species": "setosa", "class": 0, "probabilities": PROBABILITIES}]},
    "error_info": "",
    "queue_num": None,
    "queue_id": "",
    "started_at": "2026-11-22T17:26:25.295003Z",
    "ended_at": "2026-11-22T17:26:25.298118Z",
    "attempt": 1,
    "platform": "local",
}
_SURROGATE = re.compile("[\ud800-\udfff]")


@extend_schema_field({"type": "object", "additionalProperties": {}})
class ObjectField(serializers.JSONField):
    """A JSON object; it may be empty."""

    default_error_messages = {"not_an_object": "This must be a JSON object."}

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, dict):
            self.fail("not_an_object")
        return data


class StrictCharField(serializers.CharField):
    """Text only: DRF's own field also takes numbers, and lone surrogates."""

    default_error_messages = {"half_a_character": "This has half a surrogate pair in it, which is no text."}

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        if not data.isascii() and _SURROGATE.search(data):
            self.fail("half_a_character")
        return super().to_internal_value(data)


class ModelSerializer(serializers.Serializer[Any]):
    """The model that a query is about."""

    model_name = StrictCharField(max_length=200)


@extend_schema_serializer(
    examples=[OpenApiExample("One flower", {"model_name": "iris", "inputs": {"instances": [[5.1, 3.5, 1.4, 0.2]]}})]
)
class PredictionSerializer(serializers.Serializer[Any]):
    """A prediction. The agent ignores unknown keys."""

    default_error_messages = {"null": "No data provided"}

    model_name = StrictCharField(max_length=200)
    inputs = ObjectField()
    model_version = StrictCharField(max_length=100, required=False, allow_blank=True, allow_null=True, default="")

    def validate_model_version(self, value: str | None) -> str:
        return value or ""


@extend_schema_serializer(examples=[OpenApiExample("A task's id", {"id": TASK_ID}, status_codes=[200, 202])])
class TaskIdSerializer(serializers.Serializer[Any]):
    """The task's id."""

    id = serializers.CharField(max_length=64)


@extend_schema_serializer(examples=[OpenApiExample("Its species", EXAMPLE_TASK)])
class TaskSerializer(serializers.Serializer[Any]):
    """A task. Later versions may add keys after these."""

    id = serializers.CharField(max_length=64)
    model_name = serializers.CharField()
    model_version = serializers.CharField(help_text='The version that the caller asked for, or `""`.')
    status = serializers.ChoiceField(Task.Status.choices)
    running_time = serializers.SerializerMethodField(help_text="The prediction's seconds. Empty if unknown.")
    created_at = serializers.DateTimeField(help_text="RFC 3339, in UTC.")
    outputs = serializers.JSONField(help_text="The model's answer. For a stream, its text.")
    error_info = serializers.CharField(help_text="Why it failed.")
    queue_num = serializers.IntegerField(min_value=0, allow_null=True, help_text="The queue's size at the submission.")
    queue_id = serializers.CharField(help_text="The queue's job.")
    started_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)
    attempt = serializers.IntegerField(min_value=0, help_text="How often the prediction began.")
    platform = serializers.CharField(help_text="The platform. Empty if another agent runs the task.")

    @extend_schema_field({"type": "string", "pattern": r"^(\d+\.\d{6}s)?$"})
    def get_running_time(self, task: Task) -> str:
        return running_time_text(task.running_time)


def running_time_text(seconds: float | None) -> str:
    """`running_time` on the wire: `"0.014671s"`, or `""` if unknown."""
    return "" if seconds is None else f"{seconds:.6f}s"


def time_text(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC."""
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


def task_object(task: Task) -> dict[str, Any]:
    """What TaskSerializer renders, in an eighth of its time: 4 µs instead of 31 µs for each answer."""
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
