"""What lies between Replicate's clients and Cog, in the shape of `https://api.replicate.com/v1`.

    POST /v1/predictions, /v1/models/{owner}/{name}/predictions     GET  /v1/predictions, /v1/predictions/{id}
    POST /v1/predictions/{id}/cancel                                GET  /v1/stream/{id}  (`urls.stream`: events)

Each version is a Cog's, which tells how its predictions go by webhooks to /hooks/{id}. A thread of the tests' process.
"""

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests

KEY = "r8_THETOKENOFTHETESTS"
ENDED = ("succeeded", "failed", "canceled", "aborted")
TITLES = {401: "Unauthenticated", 404: "Not found", 422: "Input validation failed", 429: "Too many requests"}


class Refused(Exception):
    def __init__(self, status: int, detail: str) -> None:
        self.status = status
        self.detail = detail


@dataclass
class Version:
    """`cog` is the address of its Cog, "" for a model that never comes up; `streams`: its clients may stream."""

    id: str
    model: str
    cog: str = ""
    streams: bool = False


@dataclass
class Prediction:
    version: Version
    input: dict[str, Any]
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:26])
    told: dict[str, Any] = field(default_factory=dict)
    status: str = "starting"
    created_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    completed_at: str | None = None

    def seen(self, origin: str) -> dict[str, Any]:
        get = f"{origin}/v1/predictions/{self.id}"
        urls = {"get": get, "cancel": f"{get}/cancel"}
        if self.version.streams:
            urls["stream"] = f"{origin}/v1/stream/{self.id}"
        return {
            "id": self.id,
            "model": self.version.model,
            "version": self.version.id,
            "input": self.input,
            "output": self.told.get("output"),
            "error": self.told.get("error"),
            "logs": self.told.get("logs", ""),
            "status": self.status,
            "created_at": self.created_at,
            "started_at": None if self.status == "starting" else self.created_at,
            "completed_at": self.completed_at,
            "metrics": self.told.get("metrics") or None,
            "urls": urls,
        }


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # five is less than clients that come at once


class Gateway:
    """`predictions` by their id; `asked` has (method, path, headers, body) of every request of a client.

    The next `throttled` creations and `busy_polls` looks are answered 429, with `retry_after` seconds.
    """

    def __init__(self, *versions: Version) -> None:
        self.versions = {version.id: version for version in versions}
        self.predictions: dict[str, Prediction] = {}
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.throttled = self.busy_polls = 0
        self.retry_after = "1"
        self._changed = threading.Condition()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        self.address = f"{self.origin}/v1/predictions"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def forget(self) -> None:
        self.predictions.clear()
        self.asked.clear()
        self.throttled = self.busy_polls = 0
        self.retry_after = "1"

    def count(self, method: str, end: str = "/predictions") -> int:
        return sum(asked == method and path.endswith(end) for asked, path, _, _ in self.asked)

    def create(self, body: Any, model: str, wait_seconds: float) -> tuple[int, dict[str, Any]]:
        with self._changed:
            if self.throttled:
                self.throttled -= 1
                raise Refused(429, f"Request was throttled. Your rate limit resets in ~{self.retry_after}s.")
            body = body if isinstance(body, dict) else {}
            said = next((v for v in self.versions.values() if v.model == model), None) if model else None
            version = said or self.versions.get(body.get("version", ""))
            if version is None:
                raise Refused(422, "The specified version does not exist (or perhaps you don't have permission?)")
            if not isinstance(body.get("input"), dict):
                raise Refused(422, "- input: Invalid type. Expected: object")
            prediction = Prediction(version, body["input"])
            self.predictions[prediction.id] = prediction
        if version.cog:
            self._hand_to_cog(prediction)
        with self._changed:
            self._changed.wait_for(lambda: prediction.status in ENDED, wait_seconds)
            return 201, prediction.seen(self.origin)

    def get(self, prediction_id: str, *, poll: bool = False) -> Prediction:
        with self._changed:
            if poll and self.busy_polls:
                self.busy_polls -= 1
                raise Refused(429, "Request was throttled.")
            if prediction_id not in self.predictions:
                raise Refused(404, "The requested resource could not be found.")
            return self.predictions[prediction_id]

    def cancel(self, prediction_id: str) -> dict[str, Any]:
        prediction = self.get(prediction_id)
        with self._changed:
            if prediction.status not in ENDED:
                self._end(prediction, "aborted" if prediction.status == "starting" else "canceled")
        if prediction.version.cog:
            requests.post(f"{prediction.version.cog}/predictions/{prediction.id}/cancel", timeout=10)
        return prediction.seen(self.origin)

    def hooked(self, prediction_id: str, told: dict[str, Any]) -> None:
        """Cog's webhooks may overtake each other."""
        with self._changed:
            prediction = self.predictions.get(prediction_id)
            if prediction is None or prediction.status in ENDED:
                return
            if told["status"] in ENDED:
                prediction.told = told
                self._end(prediction, told["status"])
            elif len(str(told.get("output"))) >= len(str(prediction.told.get("output"))):
                prediction.told, prediction.status = told, told["status"]
            self._changed.notify_all()

    def events(self, prediction: Prediction) -> Iterator[str]:
        """Server-sent events from the beginning of the prediction to its end."""
        sent, logs = 0, ""
        while True:
            with self._changed:
                told, status = prediction.told, prediction.status
            pieces = told.get("output") if isinstance(told.get("output"), list) else []
            for number, piece in enumerate(pieces[sent:], sent):
                yield _event("output", piece, f"{number}:0")
            sent = len(pieces)
            if new := told.get("logs", "")[len(logs) :]:
                logs += new
                yield _event("logs", new, f"{sent}:1")
            if status in ENDED:
                break
            with self._changed:
                self._changed.wait_for(lambda: prediction.told is not told or prediction.status != status, 0.5)  # noqa: B023
            yield ": still here\n\n"
        if status == "failed":
            yield _event("error", json.dumps({"detail": told.get("error")}), f"{sent}:2")
        reasons = {"succeeded": {}, "failed": {"reason": "error"}}
        yield _event("done", json.dumps(reasons.get(status, {"reason": "canceled"})), f"{sent}:3")

    def _hand_to_cog(self, prediction: Prediction) -> None:
        told = {
            "input": prediction.input,
            "webhook": f"{self.origin}/hooks/{prediction.id}",
            "webhook_events_filter": ["start", "output", "logs", "completed"],
        }
        url = f"{prediction.version.cog}/predictions/{prediction.id}"
        for _ in range(200):
            answer = requests.put(url, json=told, headers={"Prefer": "respond-async"}, timeout=10)
            if answer.status_code != 409:  # busy
                break
            time.sleep(0.05)
        if answer.status_code == 422:
            del self.predictions[prediction.id]
            raise Refused(422, "".join(f"- {said['loc'][-1]}: {said['msg']}\n" for said in answer.json()["detail"]))
        assert answer.status_code == 202, answer.text

    def _end(self, prediction: Prediction, status: str) -> None:
        prediction.status, prediction.completed_at = status, datetime.now(UTC).isoformat()
        self._changed.notify_all()


def _event(event: str, data: str, event_id: str) -> str:
    lines = "".join(f"data: {line}\n" for line in data.split("\n"))
    return f"event: {event}\nid: {event_id}\n{lines}\n"


def _handler(gateway: Gateway) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer is one packet

        def do_GET(self) -> None:
            self._serve(self._get)

        def do_POST(self) -> None:
            self._serve(self._post)

        def _serve(self, serve: Any) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.loads(content) if content else None
            names = self.path.partition("?")[0].strip("/").split("/")
            try:
                if names[0] == "hooks" and self.command == "POST":
                    gateway.hooked(names[1], body)
                    return self._answer(200, {})
                headers = {name.lower(): value for name, value in self.headers.items()}
                gateway.asked.append((self.command, self.path, headers, body))
                if headers.get("authorization") != f"Bearer {KEY}":
                    raise Refused(401, "You did not pass a valid authentication token")
                serve(names[1:], headers, body)
            except Refused as refused:
                title = TITLES[refused.status]
                problem = {"title": title, "detail": refused.detail, "status": refused.status}
                self._answer(refused.status, problem, "application/problem+json")

        def _get(self, names: list[str], headers: dict[str, str], _: Any) -> None:
            match names:
                case ["predictions"]:
                    found = [one.seen(gateway.origin) for one in reversed(gateway.predictions.values())]
                    self._answer(200, {"next": None, "previous": None, "results": found})
                case ["predictions", prediction_id]:
                    self._answer(200, gateway.get(prediction_id, poll=True).seen(gateway.origin))
                case ["stream", prediction_id] if headers.get("accept") == "text/event-stream":
                    self._stream(gateway.get(prediction_id))
                case _:
                    raise Refused(404, "The requested resource could not be found.")

        def _post(self, names: list[str], headers: dict[str, str], body: Any) -> None:
            wait, _, seconds = headers.get("prefer", "").partition("=")
            wait_seconds = float(seconds or 60) if wait == "wait" else 0.0
            match names:
                case ["predictions"]:
                    self._answer(*gateway.create(body, "", wait_seconds))
                case ["models", owner, name, "predictions"]:
                    self._answer(*gateway.create(body, f"{owner}/{name}", wait_seconds))
                case ["predictions", prediction_id, "cancel"]:
                    self._answer(200, gateway.cancel(prediction_id))
                case _:
                    raise Refused(404, "The requested resource could not be found.")

        def _answer(self, status: int, body: Any, content_type: str = "application/json") -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(content)))
            if status == 429 and gateway.retry_after:
                self.send_header("Retry-After", gateway.retry_after)
            self.end_headers()
            self.wfile.write(content)

        def _stream(self, prediction: Prediction) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream; charset=utf-8")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for event in gateway.events(prediction):
                content = event.encode()
                self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *_: Any) -> None:
            pass

        def handle(self) -> None:
            with suppress(ConnectionError):  # the other end left
                super().handle()

        def finish(self) -> None:
            with suppress(ConnectionError):
                super().finish()

    return Handler
