"""Callers that tell apart what TCP, HTTP and the agent did to each of their requests."""

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tests.helpers.answers import answer_to, pieces_of

Body = dict[str, Any]


class Callers:
    """`count` threads that post `body(number)` to `path`, one request after another, until the block ends.

    `answers` counts answers by status and code; `refused` counts refused connections;
    `idle closed` counts kept connections that were closed before the next request; `cut` counts all other failures.
    `wrong` lists answers whose outputs belong to other inputs, and incomplete streams.
    """

    def __init__(self, port: int, path: str, body: Callable[[int], Body], *, count: int, keep_alive: bool) -> None:
        self.answers: Counter[str] = Counter()
        self.cuts: list[str] = []
        self.wrong: list[str] = []
        self._port, self._path, self._body, self._keep_alive = port, path, body, keep_alive
        self._numbers = iter(range(10**9))
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(count)]

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop_asking()
        for thread in self._threads:
            thread.join(120)
        if kind is None:
            assert not self.wrong, self.wrong[:3]

    def stop_asking(self) -> None:
        self._over.set()

    def _call(self) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._over.is_set():
            with self._lock:
                number = next(self._numbers)
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
                try:
                    connection.connect()
                except OSError as error:
                    self._note("refused" if isinstance(error, ConnectionRefusedError) else f"cut: {error!r}")
                    connection = None
                    time.sleep(0.1)
                    continue
            elif _is_closed(connection):
                self._note("idle closed")
                connection = None
                continue
            if not self._ask(connection, number) or not self._keep_alive:
                connection.close()
                connection = None

    def _ask(self, connection: http.client.HTTPConnection, number: int) -> bool:
        """Whether the connection can be used again."""
        asked_at = time.monotonic()
        try:
            connection.request("POST", self._path, json.dumps(self._body(number)), {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._note(f"cut: {error!r} {time.monotonic() - asked_at:.3f} s after the request")
            return False
        if response.status == 200:
            self._note("200", self._why_wrong(number, text))
        else:
            self._note(f"{response.status} {json.loads(text)['code']}")
            if b"shutting down" in text and response.headers["Connection"] != "close":
                self.wrong.append("told to go elsewhere, but not by Connection: close")
        return response.headers["Connection"] != "close"

    def _why_wrong(self, number: int, text: bytes) -> str:
        inputs = self._body(number)["inputs"]
        if "pieces" in inputs:
            came, expected = [json.loads(line).get("data") for line in text.splitlines()], pieces_of(inputs)
        else:
            task = json.loads(text)
            came, expected = task.get("outputs"), answer_to(inputs) if "outputs" in task else None
        return "" if came == expected else f"{inputs} gave {text[-200:]!r}"

    def _note(self, answer: str, wrong: str = "") -> None:
        with self._lock:
            if answer.startswith("cut"):
                self.cuts.append(answer)
            if wrong:
                self.wrong.append(wrong)
            self.answers[answer.split(":")[0]] += 1


def _is_closed(connection: http.client.HTTPConnection) -> bool:
    """Whether the server closed an idle connection; HTTP libraries check this before they send."""
    from urllib3.util.wait import wait_for_read

    return connection.sock is None or wait_for_read(connection.sock, timeout=0.0)
