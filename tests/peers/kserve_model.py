"""A real KServe model server with three models, run with the Python of its own virtual environment.

    python kserve_model.py --http_port P --enable_grpc false

iris    scikit-learn's flowers, in the v1 protocol: {"instances": [[5.1, 3.5, 1.4, 0.2], …]} → {"predictions": [0, …]}
moods   answers as `inputs.mood` says, see MOODS
tired   is registered but never ready: 503

With CALLS in the environment every call of a model is first written to that file: one JSON object a line.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import kserve
import kserve.model_server
from kserve.errors import InferenceError, InvalidInput
from kserve.protocol.rest.server import RESTServer
from kserve.utils.utils import get_predict_input
from sklearn.datasets import load_iris
from sklearn.svm import SVC

Inputs = dict[str, Any]
Headers = dict[str, str]


def note(model: str, inputs: Any, headers: Headers | None) -> None:
    if path := os.environ.get("CALLS"):
        inputs = repr(inputs) if isinstance(inputs, bytes) else inputs
        line = json.dumps({"model": model, "inputs": inputs, "headers": headers or {}, "at": time.time()})
        with open(path, "a") as calls:
            calls.write(f"{line}\n")


class Iris(kserve.Model):
    """As kserve's own sklearnserver answers, its errors included."""

    def __init__(self) -> None:
        super().__init__("iris")
        data, target = load_iris(return_X_y=True)
        self.classifier = SVC(gamma="scale").fit(data, target)
        self.ready = True

    def predict(self, payload: Inputs, headers: Headers | None = None) -> dict[str, list[int]]:
        note(self.name, payload, headers)
        try:
            return {"predictions": self.classifier.predict(get_predict_input(payload)).tolist()}
        except Exception as error:
            raise InferenceError(str(error)) from error


async def text(inputs: Inputs, headers: Headers) -> str:
    return str(inputs.get("text", "quite well, thank you"))


async def nothing(inputs: Inputs, headers: Headers) -> None:
    return None


async def number(inputs: Inputs, headers: Headers) -> float:
    return 41.5


async def a_list(inputs: Inputs, headers: Headers) -> list[Any]:
    return [1, "two", None]


async def not_a_number(inputs: Inputs, headers: Headers) -> Inputs:
    return {"scores": [1.5, float("nan"), float("inf"), float("-inf")]}


async def raw(inputs: Inputs, headers: Headers) -> bytes:
    """Sent as it is, without a Content-Type: text that may or may not be JSON."""
    return str(inputs["raw"]).encode()


async def sleep(inputs: Inputs, headers: Headers) -> Inputs:
    """With anything in `inputs.then`, its end is noted as a call too, of the mood "slept"."""
    await asyncio.sleep(inputs["seconds"])
    if "then" in inputs:
        note("moods", {"mood": "slept"}, headers)
    return {"slept": inputs["seconds"]}


async def timed(inputs: Inputs, headers: Headers) -> Inputs:
    """As kservehelper reports how long it took."""
    return {"output": "done", "running_time": inputs["running_time"]}


async def echo(inputs: Inputs, headers: Headers) -> Inputs:
    return {"inputs": inputs, "headers": headers}


async def failing(inputs: Inputs, headers: Headers) -> None:
    kinds = {"invalid": InvalidInput, "not implemented": NotImplementedError, "inference": InferenceError}
    raise kinds.get(inputs.get("kind", ""), RuntimeError)(inputs.get("message", "in a bad mood"))


async def stream(inputs: Inputs, headers: Headers) -> AsyncIterator[str]:
    """`count` lines, one every `pause` seconds; it dies before the line number `break_at`, if that is given.

    When the client leaves, that is noted as a call too, of the mood "left".
    """

    async def lines() -> AsyncIterator[str]:
        try:
            for number in range(inputs.get("count", 3)):
                if number == inputs.get("break_at"):
                    raise RuntimeError("the stream died")
                yield json.dumps({"id": number, "data": f"tok{number} "}) + "\n"
                await asyncio.sleep(inputs.get("pause", 0))
        except (asyncio.CancelledError, GeneratorExit):
            note("moods", {"mood": "left"}, headers)
            raise

    return lines()


MOODS: dict[str, Callable[[Inputs, Headers], Awaitable[Any]]] = {
    "text": text,
    "nothing": nothing,
    "number": number,
    "list": a_list,
    "not a number": not_a_number,
    "raw": raw,
    "sleep": sleep,
    "timed": timed,
    "echo": echo,
    "failing": failing,
    "stream": stream,
}


class Moods(kserve.Model):
    def __init__(self) -> None:
        super().__init__("moods")
        self.ready = True

    async def predict(self, payload: Inputs, headers: Headers | None = None) -> Any:
        note(self.name, payload, headers)
        return await MOODS[payload["mood"]](payload, headers or {})


class Tired(kserve.Model):
    def __init__(self) -> None:
        super().__init__("tired")
        self.ready = True  # else it would not even be registered

    def start(self) -> None:
        self.ready = False


class LoopbackServer(RESTServer):
    """kserve's own binds 0.0.0.0."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config.host = "127.0.0.1"


if __name__ == "__main__":
    kserve.model_server.RESTServer = LoopbackServer
    kserve.ModelServer().start([Iris(), Moods(), Tired()])
