"""The local platform: a Python callable in this very process, for a first run and for tiny models."""

import ctypes
import json
import logging
import threading
from collections.abc import Callable, Mapping
from contextvars import copy_context
from importlib import import_module
from typing import Any

import gevent
import gevent.monkey

from platforms.base import (
    Call,
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

Predictor = Callable[[str, Mapping[str, Any]], Any]


LOOK_EVERY_SECONDS = 0.2


def _is_cooperative() -> bool:
    """Whether threads here are greenlets, as under gunicorn's gevent worker."""
    return bool(gevent.monkey.is_module_patched("threading"))


class _Interrupted(BaseException):
    """Raised inside the predictor's thread when its call is stopped."""


class Local(Platform):
    """Calls `predictor` (`"package.module:function"`) with the model's name and its inputs.

    A ValueError or TypeError from it means bad inputs. A `docs(model_name)` beside it describes the inputs.
    """

    name = "local"

    def __init__(self, *, predictor: str, timeout_seconds: float) -> None:
        self.predictor = predictor
        self.timeout_seconds = timeout_seconds
        module, _, function = predictor.partition(":")
        self._module = import_module(module)
        self._predict: Predictor = getattr(self._module, function)

    def predict(self, prediction: Prediction, call: Call) -> PredictionResult:
        call.shorten(self.timeout_seconds)
        interruption = _Interruption()
        try:
            if _is_cooperative():
                outputs = self._predict_aside(prediction, call)
            else:
                with call.closing(interruption.interrupt), interruption:
                    outputs = self._ask_model(prediction)
        except _Interrupted:
            call.check()
            raise PlatformError("the predictor was interrupted") from None
        return lift_running_time(_as_json(outputs))

    def _ask_model(self, prediction: Prediction) -> Any:
        try:
            return self._predict(prediction.model_name, prediction.inputs_alone())
        except (PlatformError, _Interrupted):
            raise
        except (ValueError, TypeError) as error:
            logger.info("the local predictor refused its inputs: %s", _in_one_line(error))
            raise InvalidInputs(presentable(str(error), fallback="the model refused the inputs")) from error
        except BaseException as error:  # whatever the model's own code raises: sys.exit() ends its task, not us
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise  # a person's Ctrl-C
            logger.exception("the local predictor failed")
            raise PlatformError(f"the model raised {type(error).__name__}") from error

    def _predict_aside(self, prediction: Prediction, call: Call) -> Any:
        """In a thread of the hub's pool: a predictor that computes must not hold up the other greenlets.

        A stopped call is left at once; its predictor ends by itself. The thread runs in a copy of this context, so its
        log lines carry the request's ids.
        """
        result = gevent.get_hub().threadpool.spawn(copy_context().run, self._outcome, prediction)
        while not result.ready():
            result.wait(min(LOOK_EVERY_SECONDS, call.remaining() + 0.001))
            if not result.ready():
                call.check()
        outputs, error = result.get()
        if error is not None:
            raise error
        return outputs

    def _outcome(self, prediction: Prediction) -> tuple[Any, BaseException | None]:
        """The outputs, or the error as a value: gevent prints a traceback of any exception that its pool raises."""
        try:
            return self._ask_model(prediction), None
        except BaseException as error:
            return None, error

    def docs(self, model_name: str, call: Call) -> Any:
        describe = getattr(self._module, "docs", None)
        if describe is None:
            raise Unsupported(f"{self.predictor} has no docs() beside it")
        try:
            return describe(model_name)
        except (SystemExit, KeyboardInterrupt) as error:
            raise PlatformError(f"the model raised {type(error).__name__}") from error

    def check(self, model_name: str, call: Call) -> Health:
        """Whoever gets here has imported the predictor."""
        return ok(f"{self.predictor} is there, and runs in this agent's own processes")


def _as_json(outputs: Any) -> Any:
    """The outputs as a caller will read them; NaN and Infinity become None."""
    try:
        return parse(json.dumps(outputs).encode(), not_a_number=as_none)
    except (TypeError, ValueError, RecursionError) as error:
        raise PlatformError("the model returned something that cannot be written as JSON") from error


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:1000]


class _Interruption:
    """Raises _Interrupted in the thread that entered it, and only while it is inside.

    An exception set this way arrives between two byte codes: a loop stops at once, a blocking C call when it returns.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread_id = 0

    def __enter__(self) -> None:
        self._thread_id = threading.get_ident()

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            _set_async_exception(self._thread_id, None)
            self._thread_id = 0

    def interrupt(self) -> None:
        with self._lock:
            if self._thread_id:
                _set_async_exception(self._thread_id, _Interrupted)


def _set_async_exception(thread_id: int, exception: type[BaseException] | None) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread_id), ctypes.py_object(exception) if exception else None
    )
