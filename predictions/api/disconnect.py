"""Whether the caller of a request has hung up, and whether that ends its prediction (ON_DISCONNECT)."""

import select
import socket
from collections.abc import Callable
from typing import Any

from django.conf import settings
from gevent.monkey import get_original
from rest_framework.request import Request


def caller_is_gone(request: Request) -> Callable[[], bool] | None:
    """Asks whether the caller has closed its side of the connection. None where its prediction runs on anyway."""
    if settings.ON_DISCONNECT == "finish":
        return None
    return _CallersSide(request.META.get("gunicorn.socket")).is_closed


class _CallersSide:
    """The other end of a connection."""

    def __init__(self, sock: object) -> None:
        self._socket = sock if isinstance(sock, socket.socket) else None
        self._poll: Any = None

    def is_closed(self) -> bool:
        """Also where only its sending half is closed; it costs one system call."""
        if self._socket is None:
            return False
        try:
            if self._poll is None:
                # Only asked, never read: under gevent a read may wait, and the server's own read would then fail. And
                # the system's poll, because gevent's lets others run, and knows nothing of POLLRDHUP.
                self._poll = get_original("select", "poll")()
                self._poll.register(self._socket, select.POLLRDHUP)
            return bool(self._poll.poll(0))
        except (OSError, ValueError):  # it is closed on this side too
            return True
