"""A plain platform whose predictions take `inputs.sleep` seconds, thousands at once; `GET /calls` lists them.

Run it with `python -m tests.helpers.slow_platform_server PORT`. `inputs.status` and `inputs.body` set its answer.
Under KServe's paths it streams `inputs.pieces` pieces and sleeps before each.
"""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterable, Iterator  # noqa: E402
from typing import Any  # noqa: E402

from gevent.pywsgi import WSGIServer  # noqa: E402

from tests.helpers.answers import answer_to, pieces_of  # noqa: E402

calls: list[dict[str, Any]] = []


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/calls":
        return _answer(start_response, "200 OK", calls)
    inputs = json.loads(environ["wsgi.input"].read())
    if environ["PATH_INFO"] == "/v1/predict":
        inputs = inputs["inputs"]
    calls.append({**inputs, "at": time.time()})
    if "pieces" in inputs:
        start_response("200 OK", [])
        return _stream(inputs)
    time.sleep(inputs.get("sleep", 0))
    return _answer(start_response, inputs.get("status", "200 OK"), answer_to(inputs))


def _answer(start_response: Callable[..., Any], status: str, answer: Any) -> Iterable[bytes]:
    body = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def _stream(inputs: dict[str, Any]) -> Iterator[bytes]:
    for number, piece in enumerate(pieces_of(inputs)):
        time.sleep(inputs.get("sleep", 0))
        yield json.dumps({"id": number, "data": piece}).encode() + b"\n"


if __name__ == "__main__":
    WSGIServer(("127.0.0.1", int(sys.argv[1])), application, log=None, backlog=2048).serve_forever()
