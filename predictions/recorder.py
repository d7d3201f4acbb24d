"""The recorder that `lifecycle` notifies of each task and change: none, or a remote record service."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from django.conf import settings
from django.utils.module_loading import import_string

from platforms import Health
from platforms.health import ok
from predictions.models import Task


class RecordError(Exception):
    """A task could not be recorded; the message is for the log, not for callers."""


class RecordUnavailable(RecordError):
    """The database or the record service did not answer; the same write may succeed later."""


class RecordRefused(RecordError):
    """The record service answered that this write is not possible; repeating it is pointless."""


class RecordUnknown(RecordRefused):
    """The record service does not know the task: it was away when the task was created, or has forgotten it."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a task. None means unchanged; `running_time` in seconds."""

    task_id: str
    status: str
    outputs: Any = None
    error_info: str = ""
    running_time: float | None = None
    queue_id: str = ""


class Recorder(Protocol):
    """Keeps a copy of the record. Methods raise RecordUnavailable and RecordRefused, `changed` RecordUnknown too."""

    remote: bool
    """Whether telling can fail while our own database is well."""

    def created(self, task: Task, status: str) -> None: ...

    def changed(self, change: Change) -> None: ...

    def is_ready(self) -> bool: ...

    def check(self) -> Health: ...


class Nobody(Recorder):
    """The database is the record."""

    remote = False

    def is_ready(self) -> bool:
        return True

    def check(self) -> Health:
        return ok("tasks are kept in this agent's own database")


@lru_cache(maxsize=1)
def get_recorder() -> Recorder:
    """The recorder named by the TASK_RECORDER setting."""
    recorder: Recorder = import_string(settings.TASK_RECORDER)()
    return recorder
