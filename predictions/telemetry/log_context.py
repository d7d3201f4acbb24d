"""Which request or task the running code belongs to, for log lines and for the headers sent on."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ids: ContextVar[dict[str, str] | None] = ContextVar("ids", default=None)


def log_context() -> dict[str, str]:
    """The ids every log line of this request or task carries."""
    return _ids.get() or {}


@contextmanager
def working_on(**ids: str) -> Iterator[None]:
    """A context that adds ids (`request_id`, `task_id`) to the log lines inside the block."""
    token = _ids.set({**log_context(), **ids})
    try:
        yield
    finally:
        _ids.reset(token)


def request_id() -> str:
    return log_context().get("request_id", "")
