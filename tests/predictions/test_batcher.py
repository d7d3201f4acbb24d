"""Writes that come together: each is carried out once, and answered what is its own."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import OperationalError

from predictions.database.batcher import WriteBatcher
from tests.helpers.waiting import until


class Server:
    """Notes what it is given at once, answers twice the number, and takes its time while it is held."""

    def __init__(self) -> None:
        self.given: list[list[int]] = []
        self.at_work = 0
        self.most_at_work = 0
        self.is_held = False
        self.finishes = threading.Semaphore(0)
        """While it is held: how many more of the calls it may finish."""
        self.answer: Callable[[int], Any] = lambda number: number * 2
        self._lock = threading.Lock()

    def together(self, *, at_once: int = 1, size: int = 10) -> WriteBatcher[int, int]:
        return WriteBatcher(self.one, self.several, at_once=at_once, size=size)

    def one(self, number: int) -> Any:
        return self.several([number])[0]

    def several(self, numbers: Sequence[int]) -> list[Any]:
        with self._lock:
            self.given.append(list(numbers))
            self.at_work += 1
            self.most_at_work = max(self.most_at_work, self.at_work)
        if self.is_held:
            self.finishes.acquire(timeout=30)
        with self._lock:
            self.at_work -= 1
        return [self.answer(number) for number in numbers]


@pytest.fixture
def server() -> Server:
    return Server()


@contextmanager
def while_one_is_under_way(
    server: Server, together: WriteBatcher[int, int]
) -> Iterator[tuple[Future[int], Callable[[int], Future[int]]]]:
    """The server is at work for 0, and is held: what comes of that, and how others ask meanwhile."""
    server.is_held = True
    with ThreadPoolExecutor(20) as callers:
        first = callers.submit(together, 0)
        until(lambda: server.at_work)

        def ask(number: int) -> Future[int]:
            waiting = len(together._queue)
            told = callers.submit(together, number)
            until(lambda: len(together._queue) > waiting)
            return told

        try:
            yield first, ask
        finally:
            server.is_held = False
            server.finishes.release()


def meanwhile(server: Server, together: WriteBatcher[int, int], numbers: range) -> list[Future[int]]:
    """All of them ask while the server is at work for 0; then it goes on."""
    with while_one_is_under_way(server, together) as (first, ask):
        return [first, *map(ask, numbers)]


def test_who_comes_alone_goes_at_once_and_alone(server: Server) -> None:
    together = server.together()
    assert [together(number) for number in range(3)] == [0, 2, 4]
    assert server.given == [[0], [1], [2]]


def test_those_who_come_meanwhile_go_together_in_the_order_they_came(server: Server) -> None:
    told = meanwhile(server, server.together(), range(1, 6))
    assert [each.result() for each in told] == [0, 2, 4, 6, 8, 10]
    assert server.given == [[0], [1, 2, 3, 4, 5]]


def test_no_more_go_together_than_may(server: Server) -> None:
    told = meanwhile(server, server.together(size=3), range(1, 8))
    assert [each.result() for each in told] == [number * 2 for number in range(8)]
    assert server.given == [[0], [1, 2, 3], [4, 5, 6], [7]]


def test_what_goes_wrong_for_all_is_raised_to_each_of_them(server: Server) -> None:
    def fail(number: int) -> int:
        raise OperationalError("the server is gone")

    together = server.together()
    server.answer = fail
    told = meanwhile(server, together, range(1, 4))
    errors = [each.exception() for each in told]
    assert [str(error) for error in errors] == ["the server is gone"] * 4
    assert len({id(error) for error in errors}) == 4
    server.answer = lambda number: number
    assert together(5) == 5


def test_who_went_with_one_that_was_broken_off_does_not_take_it_for_done(server: Server) -> None:
    def break_off(number: int) -> int:
        raise SystemExit

    server.answer = break_off
    told = meanwhile(server, server.together(), range(1, 4))
    assert [type(each.exception()) for each in told] == [SystemExit, SystemExit, OperationalError, OperationalError]


def test_who_is_not_answered_among_others_goes_alone(server: Server) -> None:
    server.answer = lambda number: None if len(server.given[-1]) > 1 and number in (1, 3) else number
    told = meanwhile(server, server.together(), range(1, 5))
    assert [each.result() for each in told] == [0, 1, 2, 3, 4]
    assert server.given[:2] == [[0], [1, 2, 3, 4]]
    assert sorted(server.given[2:]) == [[1], [3]]


def test_who_goes_alone_is_not_asked_again_when_the_answer_is_none(server: Server) -> None:
    server.answer = lambda number: None
    assert server.together()(1) is None
    assert server.given == [[1]]


def test_who_gets_no_turn_in_time_is_told_and_not_carried_out(server: Server, settings: Any) -> None:
    settings.DATABASE_TIMEOUT = 0.1
    together = server.together()
    with while_one_is_under_way(server, together) as (first, _), pytest.raises(OperationalError, match="busy"):
        together(1)
    assert first.result() == 0
    assert together(2) == 4
    assert server.given == [[0], [2]]


def test_who_is_under_way_when_its_time_is_up_is_told_what_came_of_it(server: Server, settings: Any) -> None:
    settings.DATABASE_TIMEOUT = 2
    with while_one_is_under_way(server, server.together()) as (first, ask):
        others = [ask(number) for number in (1, 2)]
        server.finishes.release()
        until(lambda: len(server.given) == 2)
        time.sleep(1.2)
        assert not any(each.done() for each in others)
    assert [each.result() for each in (first, *others)] == [0, 2, 4]


@pytest.mark.parametrize("at_once", [1, 3])
def test_of_many_who_come_and_go_each_is_carried_out_once(server: Server, at_once: int) -> None:
    together = server.together(at_once=at_once, size=7)

    def ask(number: int) -> int:
        return together(number)

    with ThreadPoolExecutor(40) as callers:
        assert list(callers.map(ask, range(4000))) == [number * 2 for number in range(4000)]
    assert sorted(number for given in server.given for number in given) == list(range(4000))
    assert server.most_at_work <= at_once
    assert max(map(len, server.given)) <= 7
    assert not together._queue
    assert together._under_way == 0
