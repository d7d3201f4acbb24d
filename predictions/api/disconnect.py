"""Detects callers that hang up, which ends their predictions (ON_DISCONNECT)."""

import select
import socket
from collections.abc import Callable
from typing import Any

from django.conf import settings
from gevent.monkey import get_original
from rest_framework.request import Request


def caller_is_gone(request: Request) -> Callable[[], bool] | None:
    """A check whether the caller has closed its side of the connection. None if its prediction runs on anyway."""
    if settings.ON_DISCONNECT == "finish":
        return None
    return _Caller(request.META.get("gunicorn.socket")).is_gone


class _Caller:
    """The other end of a connection."""

    def __init__(self, sock: object) -> None:
        self._socket = sock if isinstance(sock, socket.socket) else None
        self._poll: Any = None

    def is_gone(self) -> bool:
        """True also if it closed only its sending half. Costs one system call."""
        if self._socket is None:
            return False
        try:
            if self._poll is None:
                # Polls and never reads: under gevent a read may wait, and the server's own read then fails. The
                # system's poll, because gevent's switches greenlets and does not know POLLRDHUP.
                self._poll = get_original("select", "poll")()
                self._poll.register(self._socket, select.POLLRDHUP)
            return bool(self._poll.poll(0))
        except (OSError, ValueError):  # this side is closed too
            return True
