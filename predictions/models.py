"""Task: the row of a request, its result, and the run that may still change it."""

import json
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from django.db import DEFAULT_DB_ALIAS, models
from django.db.models.base import ModelState
from django.utils.timezone import now

from platforms.parsing import dumps
from predictions.ids import new_id


def new_task_id() -> str:
    return str(new_id())


class JSONText(models.TextField):  # type: ignore[type-arg]
    """JSON kept as the text it came as: the same on every database, and safe for what `jsonb` refuses (`\\u0000`)."""

    if TYPE_CHECKING:
        _pyi_private_set_type: Any
        _pyi_private_get_type: Any

    def from_db_value(self, value: str | None, expression: object, connection: object) -> Any:
        return None if value is None else json.loads(value)

    def get_prep_value(self, value: Any) -> str | None:
        return None if value is None else dumps(value).decode()


LEADING = (("model_name", "status"), ("model_name",), ("user_id",), ("platform",), ("status",))
"""The indexes that end in `created_at`, by the columns before it."""


def all_but(statuses: Collection[str]) -> list[str]:
    return [status for status in Task.Status.values if status not in statuses]


def status_is(*statuses: str) -> models.Q:
    """A condition beside a task's id. It lists the other statuses, so that PostgreSQL finds the row by its id.

    PostgreSQL's statistics are of a quieter moment. If nothing ran then, it looks through all that run now, as it
    takes them for none.
    """
    return ~models.Q(status__in=all_but(statuses))


def whole(column: str, value: str) -> models.Q:
    """The column has this value; said so that an order that begins with the column is kept as it is written.

    After `=` PostgreSQL leaves the column out of the order. Then it may prefer to walk through all the newest tasks
    until it has met fifty that fit, and where they are all of last night, it walks for long.
    """
    return models.Q(**{f"{column}__range": (value, value)})


def led_by(columns: Collection[str], ordering: Iterable[str]) -> list[str]:
    """The order by date within those of the columns that have an index together, in that index's direction."""
    ordering = list(ordering)
    leading = next((indexed for indexed in LEADING if set(columns).issuperset(indexed)), ())
    sign = "" if ordering[0].startswith("-") else "-"
    return [*(sign + column for column in leading), *ordering]


class TaskQuerySet(models.QuerySet["Task"]):
    def unfinished(self) -> "TaskQuerySet":
        return self.filter(status__in=UNFINISHED)

    def ended(self) -> "TaskQuerySet":
        return self.filter(status__in=ENDED)

    def newest(self, **values: str) -> "TaskQuerySet":
        """Those with these values in these columns, newest first."""
        asked = [whole(column, value) for column, value in values.items()]
        return self.filter(*asked).order_by(*led_by(values, ["-created_at"]))


class Task(models.Model):
    """A caller's request and its result. Only `lifecycle` changes it."""

    class Status(models.TextChoices):
        PENDING = "pending"
        RUNNING = "running"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELED = "canceled"

    id = models.CharField(primary_key=True, max_length=64, default=new_task_id, editable=False)
    agent = models.CharField(
        max_length=100,
        blank=True,
        default="",
        help_text="The agent (its TASK_TYPE_NAME) that looks after the task; empty when another reports it here.",
    )
    user_id = models.CharField("user", max_length=200, blank=True, default="", help_text="The UID header.")
    model_name = models.CharField("model", max_length=200)
    model_version = models.CharField("version", max_length=100, blank=True, default="")
    platform = models.CharField(max_length=30, blank=True, default="")
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.PENDING)
    inputs = JSONText(null=True, blank=True)
    outputs = JSONText(null=True, blank=True)
    error_info = models.TextField("error", blank=True, default="")
    running_time = models.FloatField("run time", null=True, blank=True, help_text="Seconds.")
    queue_num = models.IntegerField(
        "queue size", null=True, blank=True, help_text="The queue's size when the task was submitted."
    )
    queue_id = models.CharField("job", max_length=64, blank=True, default="")
    attempt = models.PositiveSmallIntegerField(default=0)
    run_id = models.CharField(
        max_length=64, blank=True, default="", help_text="The run that may still write; older ones are refused."
    )
    request_id = models.CharField("request", max_length=128, blank=True, default="", help_text="X-Request-ID.")
    traceparent = models.CharField(
        "trace", max_length=55, blank=True, default="", db_default="", help_text="W3C trace context of the request."
    )
    upstream_id = models.CharField(
        "upstream job", max_length=200, blank=True, default="", help_text="The platform's own id of the prediction."
    )
    upstream_cancel = models.CharField(
        "upstream cancel", max_length=100, blank=True, default="", help_text="What came of canceling it there."
    )
    unreported = models.BooleanField(
        default=False, help_text="The record service at WEBHOOK_SERVER_ADDRESS has not heard the last change yet."
    )
    created_at = models.DateTimeField("submitted", default=now)
    started_at = models.DateTimeField("started", null=True, blank=True)
    ended_at = models.DateTimeField("ended", null=True, blank=True)
    updated_at = models.DateTimeField(default=now)

    objects = TaskQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        default_permissions = ["view"]
        permissions = [("cancel_task", "Can cancel tasks"), ("run_task", "Can run predictions from the admin")]
        indexes = [
            models.Index(fields=["-created_at"], name="task_newest"),
            models.Index(fields=["status", "-created_at"], name="task_status_newest"),
            models.Index(fields=["model_name", "status", "-created_at"], name="task_model_status_newest"),
            models.Index(fields=["model_name", "-created_at"], name="task_model_newest"),
            models.Index(fields=["user_id", "-created_at"], name="task_user_newest"),
            models.Index(fields=["platform", "-created_at"], name="task_platform_newest"),
            models.Index(fields=["request_id"], name="task_request"),
            models.Index(fields=["ended_at"], name="task_ended"),
            models.Index(
                fields=["agent", "ended_at"], name="task_agent_ended", condition=models.Q(ended_at__isnull=False)
            ),
            models.Index(
                fields=["agent", "created_at"],
                name="task_unfinished",
                condition=models.Q(status__in=["pending", "running"]),
            ),
            models.Index(fields=["updated_at"], name="task_unreported", condition=models.Q(unreported=True)),
        ]

    def __str__(self) -> str:
        return self.id

    @classmethod
    def loaded(cls, values: dict[str, Any]) -> "Task":
        """As it stands in the database, of all its columns' values."""
        task = cls.__new__(cls)
        task._state = ModelState()
        task._state.adding, task._state.db = False, DEFAULT_DB_ALIAS
        vars(task).update(values)
        return task

    @property
    def is_ended(self) -> bool:
        return self.status in ENDED

    @property
    def is_on_record(self) -> bool:
        """Whether this process has seen the database take it."""
        return not self._state.adding


class Upload(models.Model):
    """A file that a model sent here, kept as long as its task."""

    task = models.ForeignKey(Task, on_delete=models.CASCADE, null=True, related_name="uploads")
    name = models.CharField(max_length=200, unique=True, help_text="Where the storage keeps it.")
    size = models.BigIntegerField(help_text="Bytes.")
    created_at = models.DateTimeField(default=now, db_index=True)

    class Meta:
        default_permissions = ["view"]

    def __str__(self) -> str:
        return self.name


class EndedCount(models.Model):
    """How many tasks of an agent ended so in a minute that is over (rollups.py)."""

    agent = models.CharField(max_length=100)
    minute = models.DateTimeField()
    status = models.CharField(max_length=10, choices=Task.Status.choices)
    count = models.PositiveIntegerField()

    class Meta:
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=["agent", "minute", "status"], name="ended_count_once")]

    def __str__(self) -> str:
        return f"{self.count} {self.status} in {self.minute:%Y-%m-%d %H:%M}"


UNFINISHED = (Task.Status.PENDING, Task.Status.RUNNING)
ENDED = (Task.Status.SUCCEEDED, Task.Status.FAILED, Task.Status.CANCELED)
