"""HttpRecorder: keeps a copy of every task in someone else's record service (WEBHOOK_SERVER_ADDRESS)."""

import json
import logging
import time
from contextlib import suppress
from typing import Any

from django.conf import settings

from platforms import Call, Health, PlatformTimeout
from platforms.connection import BROKEN, Connections, InvalidRequest, url_of
from platforms.health import ok, problem, warning
from platforms.parsing import Malformed, as_none, parse
from predictions.api.serializers import running_time_text
from predictions.models import Task
from predictions.recorder import Change, RecordRefused, RecordUnavailable, RecordUnknown

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 10.0
READY_SECONDS = 0.7
CHECK_SECONDS = 5.0
TRIES = 3
FIRST_WAIT_SECONDS = 0.2
LARGEST_ANSWER = 4
"""Times MAX_RESPONSE_BODY: the record holds a platform's answer with more JSON escapes."""
NO_ANSWER = (*BROKEN, PlatformTimeout, InvalidRequest, UnicodeError)
REFUSALS = (400, 404, 405, 409, 413, 415, 422)
UNKNOWN = (400, 404)
"""The statuses for an unknown task: 404, or 400 from the Go original's service."""


class HttpRecorder:
    """Implements predictions.recorder.Recorder over the record service's wire."""

    remote = True

    def __init__(self) -> None:
        address = settings.WEBHOOK_SERVER_ADDRESS.rstrip("/")
        self._base = address if "://" in address else f"http://{address}"
        self._connections = Connections()

    def created(self, task: Task, status: str) -> None:
        body = {
            "id": task.pk,
            "model_name": task.model_name,
            "model_version": task.model_version,
            "queue_num": task.queue_num,
            "status": status,
        }
        answered = self._send(
            "POST", {name: value for name, value in body.items() if value != ""}, user_id=task.user_id
        )
        if answered == 409:
            self._expect(task.pk, status)

    def changed(self, change: Change) -> None:
        body = {
            "id": change.task_id,
            "status": str(change.status),
            "outputs": change.outputs,
            "error_info": change.error_info,
            "running_time": running_time_text(change.running_time),
            "queue_id": change.queue_id,
        }
        status = self._send("PUT", {name: value for name, value in body.items() if value not in (None, "")})
        if status == 409:
            self._expect(change.task_id, str(change.status))

    def is_ready(self) -> bool:
        try:
            return self._ask("GET", "/live", timeout_seconds=READY_SECONDS)[0] == 200
        except NO_ANSWER:
            return False

    def check(self) -> Health:
        """Asks for a task that does not exist: the answer shows whether the service accepts the key."""
        try:
            status, _ = self._ask("GET", "/task/doctor", timeout_seconds=CHECK_SECONDS)
        except NO_ANSWER as error:
            reason = type(error).__name__
            return problem(f"{self._base} does not answer ({reason})", "Is WEBHOOK_SERVER_ADDRESS right, and it up?")
        if status in (401, 403):
            return problem(f"{self._base} refuses the key", "Set WEBHOOK_APIKEY to the one that is set there.")
        if status not in (200, *UNKNOWN):
            return warning(f"{self._base} answers {status}", "Look at its log.")
        return ok(f"{self._base} answers, and accepts the key")

    def _send(self, method: str, body: dict[str, Any], *, user_id: str = "") -> int:
        """Sends until it is taken, three times at most. Answers 200, or 409 for a conflict that a lost reply explains.

        Raises RecordUnavailable, RecordRefused and RecordUnknown.
        """
        reason = ""
        for tries in range(TRIES):
            if tries:
                time.sleep(FIRST_WAIT_SECONDS * 2**tries)
            try:
                status, answer = self._ask(method, "/task", body=body, user_id=user_id)
            except NO_ANSWER as error:
                reason = f"{type(error).__name__}"
                continue
            if status == 409:
                return 409
            if status in REFUSALS:
                if method == "PUT" and status in UNKNOWN and self._is_unknown(body["id"]):
                    raise RecordUnknown("the record service does not know the task")
                raise RecordRefused(f"{method} /task was answered {status}")
            if status == 200 and isinstance(answer, dict) and answer.get("id"):
                return 200
            reason = f"it answered {status}"
        logger.warning("the record service did not take %s /task: %s", method, reason, extra={"task_id": body["id"]})
        raise RecordUnavailable(f"the record service did not take it: {reason}")

    def _is_unknown(self, task_id: str) -> bool:
        """Raises RecordUnavailable."""
        try:
            return self._ask("GET", f"/task/{task_id}")[0] in UNKNOWN
        except NO_ANSWER as error:
            raise RecordUnavailable("the record service did not answer") from error

    def _expect(self, task_id: str, status: str) -> None:
        """After a conflict: raises RecordRefused unless the record already has the status."""
        try:
            code, answer = self._ask("GET", f"/task/{task_id}")
        except NO_ANSWER as error:
            raise RecordUnavailable("the record service did not answer") from error
        stands = answer.get("status") if code == 200 and isinstance(answer, dict) else None
        if stands != status:
            raise RecordRefused(f"the record says {stands!r} and cannot become {status!r}")

    def _ask(
        self,
        method: str,
        path: str,
        *,
        body: dict[str, Any] | None = None,
        user_id: str = "",
        timeout_seconds: float | None = None,
    ) -> tuple[int, Any]:
        """The status of an answer, and its JSON: None if it is none, or more than may be held.

        Raises NO_ANSWER, also where the answer does not come to an end in time.
        """
        seconds = TIMEOUT_SECONDS if timeout_seconds is None else timeout_seconds
        headers = {
            "apikey": settings.WEBHOOK_APIKEY,
            "UID": user_id.encode().decode("latin-1"),  # UTF-8, which headers carry as if it were Latin-1
            "User-Agent": "serving-agent",
        }
        if body is not None:
            headers["Content-Type"] = "application/json"
        sent = None if body is None else json.dumps(body).encode()
        url = url_of(f"{self._base}{path}")
        connection = self._connections.take(url)
        answer = connection.ask(Call(timeout_seconds=seconds), method, url, headers, sent)
        content = bytearray()
        try:
            while piece := answer.next_piece():
                content += piece
                if len(content) > LARGEST_ANSWER * settings.MAX_RESPONSE_BODY:
                    return answer.status, None
        finally:
            connection.release(reusable=answer.connection_is_reusable)
        with suppress(Malformed):
            return answer.status, parse(content, not_a_number=as_none, wrapping=1)
        return answer.status, None
