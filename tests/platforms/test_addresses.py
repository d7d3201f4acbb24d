"""Names of platforms: looked up once for a crowd, and never for longer than a request may take."""

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from platforms import addresses
from platforms.addresses import Addresses
from tests.helpers.makers import FLOWER, call, k8s
from tests.helpers.stub import Stub, answers

Resolve = Callable[..., list[Any]]


def leading_to(*places: str, family: socket.AddressFamily = socket.AF_INET) -> list[Any]:
    return [(family, socket.SOCK_STREAM, 6, "", (place, 80)) for place in places]


class Resolver:
    """Stands in for the system's: what it answers, how often it was asked, and whether it hangs."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers: list[Any] | OSError = leading_to("10.0.0.1")
        self.is_working = threading.Event()
        self.is_working.set()

    def __call__(self, host: str, port: int, **options: Any) -> list[Any]:
        self.asked += 1
        self.is_working.wait(30)
        if isinstance(self.answers, OSError):
            raise self.answers
        return self.answers


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    return resolver


def places(known: Addresses, timeout_seconds: float = 30) -> list[str]:
    return [address.place[0] for address in known.of("model.example", 80, timeout_seconds=timeout_seconds)]


def crowd(known: Addresses, resolver: Resolver, ask: Callable[[], Any]) -> list[Any]:
    """What each of twenty is told who ask while the resolver hangs."""
    resolver.is_working.clear()
    at_the_door = threading.Barrier(21)

    def wait_and_ask() -> Any:
        at_the_door.wait()
        return ask()

    with ThreadPoolExecutor(20) as callers:
        told = [callers.submit(wait_and_ask) for _ in range(20)]
        at_the_door.wait()
        while len(waiting(known)) < 20:
            time.sleep(0.001)
        resolver.is_working.set()
        return [each.result() for each in told]


def waiting(known: Addresses) -> list[Any]:
    (lookup,) = known._lookups.values() or (None,)
    return lookup._condition._waiters if lookup else []  # type: ignore[attr-defined]


def test_a_crowd_asks_the_resolver_once(resolver: Resolver) -> None:
    known = Addresses()
    assert crowd(known, resolver, lambda: places(known)) == [["10.0.0.1"]] * 20
    assert resolver.asked == 1


def test_all_who_waited_hear_of_a_failure_and_the_next_one_asks_again(resolver: Resolver) -> None:
    known = Addresses()
    resolver.answers = socket.gaierror(-2, "Name or service not known")

    def ask() -> str:
        with pytest.raises(socket.gaierror, match="not known") as failure:
            places(known)
        return str(failure.value)

    assert len(set(crowd(known, resolver, ask))) == 1
    assert resolver.asked == 1
    resolver.answers = leading_to("10.0.0.2")
    assert places(known) == ["10.0.0.2"]
    assert resolver.asked == 2


def test_what_is_known_is_asked_for_again_after_a_moment(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Addresses()
    moment = 100.0
    monkeypatch.setattr(addresses.time, "monotonic", lambda: moment)
    assert places(known) == ["10.0.0.1"]
    resolver.answers = leading_to("10.0.0.2")
    moment += 0.9
    assert places(known) == ["10.0.0.1"]
    moment += 0.1
    assert places(known) == ["10.0.0.2"]


def test_a_resolver_that_hangs_is_waited_for_only_so_long(resolver: Resolver) -> None:
    known = Addresses()
    resolver.is_working.clear()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            places(known, timeout_seconds=0.05)
    assert resolver.asked == 1
    resolver.is_working.set()
    assert places(known) == ["10.0.0.1"]
    assert resolver.asked == 1


def test_where_no_thread_can_be_had_the_name_is_looked_up_all_the_same(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert places(Addresses()) == ["10.0.0.1"]


def test_callers_are_spread_over_the_servers_of_a_family(resolver: Resolver) -> None:
    known = Addresses()
    sixth = leading_to("::1", "::2", family=socket.AF_INET6)
    resolver.answers = sixth + leading_to(*(f"10.0.0.{n}" for n in range(9)))
    told = {tuple(places(known)) for _ in range(50)}
    assert len(told) > 10
    assert all(set(places[:2]) == {"::1", "::2"} for places in told)
    assert all(set(places) == {"::1", "::2", *(f"10.0.0.{n}" for n in range(9))} for places in told)


def test_what_is_no_name_is_an_error_of_the_settings() -> None:
    with pytest.raises(UnicodeError):
        Addresses().of(f"{'a' * 64}.example", 80, timeout_seconds=30)


def test_the_next_address_is_tried_where_nobody_answers_at_the_first(stub: Stub, resolver: Resolver) -> None:
    stub.script("POST /v1/predict", answers({"output": 1}))
    port = stub.port
    resolver.answers = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),  # where nothing listens
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
    ]
    assert k8s(f"model.example:{port}").predict(FLOWER, call()).outputs == {"output": 1}
    (asked,) = stub.received
    assert asked.headers["host"] == f"model.example:{port}"
