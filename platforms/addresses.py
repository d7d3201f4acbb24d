"""Where names lead: looked up once for all who ask meanwhile, and known for a moment after.

In a crowd every prediction opens a connection of its own. A lookup for each would keep the resolver busy for longer
than the predictions take: gevent gives it ten threads, and in a cluster each lookup asks for half a dozen names.
"""

import random
import socket
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

KNOWN_SECONDS = 1.0
"""Long enough for a burst of calls, and short enough to notice a server that moved."""


class Address(NamedTuple):
    """As a socket of that family is connected to it."""

    family: socket.AddressFamily
    place: Any


class _Lookup(Future[list[Address]]):
    known_until = float("inf")
    """A time of `time.monotonic()`; until it is done, everybody waits for it."""


class Addresses:
    """Of the servers of one platform."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lookups: dict[tuple[str, int], _Lookup] = {}

    def of(self, host: str, port: int, *, timeout_seconds: float) -> list[Address]:
        """Where to connect to, best first.

        Raises OSError (socket.gaierror for an unknown name, TimeoutError for a slow resolver) and UnicodeError for an
        invalid name.
        """
        with self._lock:
            lookup = self._lookups.get((host, port))
            is_new = lookup is None or lookup.known_until <= time.monotonic()
            if lookup is None or is_new:
                lookup = self._lookups[host, port] = _Lookup()
        if is_new:
            _begin(lookup, host, port)
        failed = lookup.exception(timeout_seconds)
        if failed is not None:
            raise type(failed)(*failed.args)  # an error with a traceback of its own for each
        return _spread(lookup.result())


def _begin(lookup: _Lookup, host: str, port: int) -> None:
    """Uses a thread of its own, because the resolver takes no time limit."""
    try:
        threading.Thread(target=_look_up, args=(lookup, host, port), name="lookup", daemon=True).start()
    except RuntimeError:  # the system has no thread left
        _look_up(lookup, host, port)


def _look_up(lookup: _Lookup, host: str, port: int) -> None:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except Exception as error:  # raised where it is waited for
        lookup.known_until = time.monotonic()  # for those who wait: the next one asks again
        lookup.set_exception(error)
    else:
        lookup.known_until = time.monotonic() + KNOWN_SECONDS
        lookup.set_result([Address(family, place) for family, _, _, _, place in found])


def _spread(addresses: Iterable[Address]) -> list[Address]:
    """The families in the resolver's order; within each, callers are spread over the servers."""
    groups = [list(group) for _, group in groupby(addresses, key=itemgetter(0))]
    return [address for group in groups for address in random.sample(group, len(group))]
