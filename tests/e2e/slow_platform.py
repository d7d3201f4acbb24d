"""A plain service whose predictions take `inputs.sleep` seconds, thousands at once; `GET /calls` says what it saw.

`python -m tests.e2e.slow_platform PORT`. It misbehaves when asked: `inputs.status`, `inputs.body`, `inputs.hang_up`.
"""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterable  # noqa: E402
from typing import Any  # noqa: E402

from gevent.pywsgi import WSGIServer  # noqa: E402

calls: list[dict[str, Any]] = []
STARTED = {"requests": 0}


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    status, answer = _answer(environ)
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def _answer(environ: dict[str, Any]) -> tuple[str, Any]:
    if environ["PATH_INFO"] == "/calls":
        return "200 OK", calls
    inputs = json.loads(environ["wsgi.input"].read())["inputs"]
    calls.append({**inputs, "at": time.time()})
    time.sleep(inputs.get("sleep", 0))
    if body := inputs.get("body"):
        return inputs.get("status", "200 OK"), body.encode()
    return inputs.get("status", "200 OK"), {"n": inputs.get("n")}


if __name__ == "__main__":
    WSGIServer(("127.0.0.1", int(sys.argv[1])), application, log=None, backlog=2048).serve_forever()
