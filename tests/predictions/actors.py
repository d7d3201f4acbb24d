"""Real code, a step at a time: each actor is a thread that halts at every step until the test gives it an order.

An actor halts before each SQL statement, before each command to Redis, and inside the platform. The order
may be to go on; that the database or Redis is away (the step is not done) or was lost (it is done, and only the answer
does not come); or to die, as with `kill -9`: nothing after that point happens.
"""

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from queue import SimpleQueue
from typing import Any

from django.db import OperationalError, connection
from redis.exceptions import ConnectionError as RedisConnectionError

from platforms import Call, Platform, PlatformError, Prediction, PredictionResult
from predictions.submission import PredictionRequest


class Order(StrEnum):
    GO = "go on"
    AWAY = "connection refused"
    LOST = "no answer comes"
    DIE = "die"
    SUCCEED = "succeed"
    FAIL = "fail"
    DEFECT = "raise an unexpected error"
    REACT = "react to a stop, if there was one"


ENDED = "ended"
PLATFORM = "in the platform"
HALT_SECONDS = 60

_here = threading.local()


class Killed(BaseException):
    """Passes every `except Exception`, as a kill does."""


class Actor:
    """One call of the real code, by a thread. `at` says where it stands."""

    def __init__(self, kind: str, work: Callable[[], Any], *, task_id: str = "", run_id: str = "") -> None:
        self.kind = kind
        self.at = ""
        self.task_id = task_id
        self.run_id = run_id
        self.is_dead = False
        self.missed_redis = False
        """Whether Redis was away, or its answer lost, at one of its steps."""
        self.result: Any = None
        self.error: Exception | None = None
        self.call: Call | None = None
        self.is_answered = False
        self.tell_to_end: Callable[[], None] = lambda: None
        self._work = work
        self._orders: SimpleQueue[Order] = SimpleQueue()
        self._halted: SimpleQueue[None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._halted.get(timeout=HALT_SECONDS)

    @property
    def member(self) -> str:
        """The name of a worker's run in the set of leases."""
        return f"{self.task_id}:{self.run_id}"

    @property
    def is_over(self) -> bool:
        return self.at == ENDED

    def go(self, order: Order = Order.GO) -> None:
        """To the next halt, or to the end."""
        self._orders.put(order)
        self._halted.get(timeout=HALT_SECONDS)

    def halt(self, at: str) -> Order:
        self._check_life()  # where something catches even what kills
        self.at = at
        self._halted.put(None)
        order = self._orders.get()
        if order == Order.DIE:
            self.is_dead = True
        self._check_life()
        return order

    def _check_life(self) -> None:
        if self.is_dead:
            raise Killed

    def _run(self) -> None:
        _here.actor = self
        try:
            with connection.execute_wrapper(self._statement):
                self.result = self._work()
        except Killed:
            pass
        except Exception as error:  # whatever it is: the referee looks at it
            self.error = error
        finally:
            connection.close()
            self.at = ENDED
            self._halted.put(None)

    def _statement(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        verb = sql.split(maxsplit=1)[0]
        if connection.in_atomic_block or "predictions_" not in sql:
            return execute(sql, params, many, context)
        if verb == "INSERT":
            self.task_id = params[0]
        step = partial(execute, sql, params, many, context)
        return self.step(verb, step, OperationalError("the database is away"))

    def step(self, name: str, step: Callable[[], Any], error: Exception) -> Any:
        order = self.halt(f"before {name}")
        answer = step() if order != Order.AWAY else None
        if order in (Order.AWAY, Order.LOST):
            self.missed_redis |= name == "Redis"
            raise error
        return answer


def halting(command: Callable[..., Any]) -> Callable[..., Any]:
    """A Redis client's `execute_command` before which actors halt; for others it is as it was."""

    def execute_command(*args: Any, **options: Any) -> Any:
        step = partial(command, *args, **options)
        actor: Actor | None = getattr(_here, "actor", None)
        return actor.step("Redis", step, RedisConnectionError("Redis is away")) if actor else step()

    return execute_command


class Staged(Platform):
    """Answers as it is ordered to. The model `polled` has jobs that can be waited for again, like Replicate's."""

    name = "staged"
    timeout_seconds = 300.0
    asked: Counter[str] = Counter()
    """How often the agent sent each task here."""
    given: dict[str, tuple[str, str]] = {}
    """Each answer → the task and the run it was given to."""
    _numbers = itertools.count(1)

    @classmethod
    def forget(cls) -> None:
        cls.asked.clear()
        cls.given.clear()

    def cancel(self, upstream_id: str, call: Call) -> None:
        call.canceled_upstream("canceled")

    def predict(self, prediction: Prediction, call: Call) -> PredictionResult:
        if call.reason is not None and call.upstream_id:
            call.canceled_upstream("canceled")
        call.check()
        actor: Actor = _here.actor
        if not call.upstream_id:
            self.asked[actor.task_id] += 1
        if prediction.model_name == "polled" and not call.upstream_id:
            call.submitted(f"job-{next(self._numbers)}")
        actor.call = call
        while True:
            order = actor.halt(PLATFORM)
            actor.is_answered = order != Order.REACT
            if order == Order.SUCCEED:
                outputs = f"answer {next(self._numbers)}"
                self.given[outputs] = (actor.task_id, actor.run_id)
                return PredictionResult(outputs, 0.5)
            if order == Order.FAIL:
                raise PlatformError("the platform said no")
            if order == Order.DEFECT:
                raise ZeroDivisionError
            call.check()


def request(model: str) -> PredictionRequest:
    return PredictionRequest(model_name=model, inputs={})
