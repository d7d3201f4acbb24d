"""Which request or task the running code belongs to, for log lines and for the headers sent on."""

from contextvars import ContextVar, Token

_ids: ContextVar[dict[str, str] | None] = ContextVar("ids", default=None)


def log_context() -> dict[str, str]:
    """The ids every log line of this request or task carries."""
    return _ids.get() or {}


class working_on:  # noqa: N801  (it is used as a function is)
    """A context that adds ids (`request_id`, `task_id`) to the log lines inside the block."""

    __slots__ = ("_ids", "_token")

    def __init__(self, **ids: str) -> None:
        self._ids = ids

    def __enter__(self) -> None:
        self._token: Token[dict[str, str] | None] = _ids.set({**log_context(), **self._ids})

    def __exit__(self, *error: object) -> None:
        _ids.reset(self._token)


def request_id() -> str:
    return log_context().get("request_id", "")
