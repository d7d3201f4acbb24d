"""The local platform: a Python callable in this process, for a first run and for small models."""

import asyncio
import ctypes
import inspect
import json
import logging
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from contextvars import copy_context
from importlib import import_module
from itertools import count
from typing import Any, TypeVar

import gevent
import gevent.monkey

from platforms.base import (
    Call,
    Chunk,
    InvalidInputs,
    Platform,
    PlatformError,
    Prediction,
    PredictionResult,
    Unsupported,
    lift_running_time,
    presentable,
)
from platforms.health import Health, ok
from platforms.parsing import as_none, parse

logger = logging.getLogger(__name__)

T = TypeVar("T")
Predictor = Callable[[str, Mapping[str, Any]], Any]

LOOK_EVERY_SECONDS = 0.2
_END = object()


class Local(Platform):
    """Calls a function with the model's name and its inputs.

    `predictor` is `"package.module:name"` of a function, or of a dict from model names to functions. A function that
    yields can be streamed; a sync or async prediction gets all its pieces, joined where they are text. A ValueError or
    TypeError means bad inputs. A `docs(model_name)` in the function's module describes the inputs.
    """

    name = "local"

    def __init__(self, *, predictor: str, timeout_seconds: float) -> None:
        self.predictor = predictor
        self.timeout_seconds = timeout_seconds
        module, _, name = predictor.partition(":")
        self._module = import_module(module)
        self._predictors: Predictor | Mapping[str, Predictor] = getattr(self._module, name)

    def predict(self, prediction: Prediction, call: Call) -> PredictionResult:
        call.shorten(self.timeout_seconds)
        predictor = self._predictor_of(prediction.model_name)
        outputs = _run(lambda: _whole(predictor(prediction.model_name, prediction.inputs_alone())), call)
        return lift_running_time(_as_json(outputs))

    def stream(self, prediction: Prediction, call: Call) -> Generator[Chunk, None, None]:
        call.shorten(self.timeout_seconds)
        predictor = self._predictor_of(prediction.model_name)
        if not (inspect.isgeneratorfunction(predictor) or inspect.isasyncgenfunction(predictor)):
            raise Unsupported(f"{prediction.model_name} cannot stream: its function does not yield")
        pieces = _pieces(predictor(prediction.model_name, prediction.inputs_alone()))
        try:
            for number in count():
                piece = _run(lambda: next(pieces, _END), call)
                if piece is _END:
                    return
                yield Chunk(number, piece if isinstance(piece, str) else json.dumps(_as_json(piece)))
        finally:
            with suppress(ValueError):  # a stopped step still runs in its thread
                pieces.close()

    def docs(self, model_name: str, call: Call) -> Any:
        predictor = self._predictor_of(model_name)
        beside = self._module if predictor is self._predictors else sys.modules[predictor.__module__]
        describe = getattr(beside, "docs", None)
        if describe is None:
            raise Unsupported(f"{self.predictor} has no docs() beside it")
        try:
            return describe(model_name)
        except (SystemExit, KeyboardInterrupt) as error:
            raise PlatformError(f"the model raised {type(error).__name__}") from error

    def models(self) -> list[str]:
        return [] if callable(self._predictors) else sorted(self._predictors)

    def check(self, model_name: str, call: Call) -> Health:
        return ok(f"{self.predictor} is there, and runs in this agent's own processes")

    def _predictor_of(self, model_name: str) -> Predictor:
        if callable(self._predictors):
            return self._predictors
        if model_name not in self._predictors:
            raise InvalidInputs(f"there is no model of this name; the models are: {', '.join(self.models())}")
        return self._predictors[model_name]


def _pieces(outputs: Any) -> Generator[Any, None, None]:
    """Iterates over a generator or an async generator."""
    if not inspect.isasyncgen(outputs):
        yield from outputs
        return
    loop = asyncio.new_event_loop()
    try:
        while (piece := loop.run_until_complete(anext(outputs, _END))) is not _END:
            yield piece
    finally:
        loop.run_until_complete(outputs.aclose())
        loop.close()


def _whole(outputs: Any) -> Any:
    """The outputs of a function, or all pieces of one that yields: one text, or a list."""
    if not (inspect.isgenerator(outputs) or inspect.isasyncgen(outputs)):
        return outputs
    pieces = list(_pieces(outputs))
    return "".join(pieces) if all(isinstance(piece, str) for piece in pieces) else pieces


def _run(step: Callable[[], T], call: Call) -> T:
    """Runs the model's code until it ends or the call is stopped. Raises PlatformError and CallStopped."""
    try:
        if gevent.monkey.is_module_patched("threading"):
            return _run_in_thread_pool(step, call)
        interruption = _Interruption()
        with call.closing(interruption.interrupt), interruption:
            return _translated(step)
    except _Interrupted:
        call.check()
        raise PlatformError("the predictor was interrupted") from None


def _translated(step: Callable[[], T]) -> T:
    """Runs the model's code and turns its errors into a PlatformError."""
    try:
        return step()
    except (PlatformError, _Interrupted):
        raise
    except (ValueError, TypeError) as error:
        logger.info(
            "the local predictor refused its inputs: %s",
            f"{type(error).__name__}: {' '.join(str(error).split())}"[:1000],
        )
        raise InvalidInputs(presentable(str(error), fallback="the model refused the inputs")) from error
    except BaseException as error:  # sys.exit() in the model's code ends its task, not this process
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise  # a person's Ctrl-C
        logger.exception("the local predictor failed")
        raise PlatformError(f"the model raised {type(error).__name__}") from error


def _run_in_thread_pool(step: Callable[[], T], call: Call) -> T:
    """Under gunicorn's gevent worker: a model that computes must not block the other greenlets.

    A stopped call returns immediately, and its thread ends when the model does. The thread runs in a copy of this
    context, so its log lines carry the request's ids.
    """
    call.check()
    result = gevent.get_hub().threadpool.spawn(copy_context().run, _outcome, step)
    while not result.ready():
        result.wait(min(LOOK_EVERY_SECONDS, call.remaining() + 0.001))
        if not result.ready():
            call.check()
    outputs, error = result.get()
    if error is not None:
        raise error
    returned: T = outputs
    return returned


def _outcome(step: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """The outputs, or the error as a value: gevent prints a traceback of any exception that its pool raises."""
    try:
        return _translated(step), None
    except BaseException as error:
        return None, error


def _as_json(outputs: Any) -> Any:
    """The outputs as a caller will read them; NaN and Infinity become None."""
    try:
        return parse(json.dumps(outputs).encode(), not_a_number=as_none)
    except (TypeError, ValueError, RecursionError) as error:
        raise PlatformError("the model returned something that cannot be written as JSON") from error


class _Interrupted(BaseException):
    """Raised inside the predictor's thread when its call is stopped."""


class _Interruption:
    """Raises _Interrupted in the thread that entered it, and only while that thread is inside.

    Python delivers the exception between two byte codes: a loop stops immediately, a blocking C call when it returns.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread_id = 0
        self._was_sent = False

    def __enter__(self) -> None:
        self._thread_id = threading.get_ident()

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        with suppress(_Interrupted):
            with self._lock:
                self._thread_id = 0
            # CPython 3.11 never resets its flag if the exception is withdrawn, which would slow this thread for ever.
            if self._was_sent and kind is not _Interrupted:
                for _ in range(100):
                    pass  # it is delivered here, unless the model's code has caught it

    def interrupt(self) -> None:
        with self._lock:
            if self._thread_id:
                self._was_sent = True
                thread_id = ctypes.c_ulong(self._thread_id)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread_id, ctypes.py_object(_Interrupted))
