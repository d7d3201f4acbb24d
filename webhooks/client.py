"""HttpRecorder: keeps a copy of every task in someone else's record service (WEBHOOK_SERVER_ADDRESS)."""

import logging
import time
from typing import Any

import requests
from django.conf import settings

from platforms import Health
from platforms.health import ok, problem, warning
from platforms.http import new_session
from predictions.api.serializers import running_time_text
from predictions.models import Task
from predictions.recorder import Change, RecordRefused, RecordUnavailable

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 10.0
READY_SECONDS = 0.7
CHECK_SECONDS = 5.0
TRIES = 3
FIRST_WAIT_SECONDS = 0.2
REFUSALS = (400, 404, 405, 409, 413, 415, 422)


class HttpRecorder:
    """Implements predictions.recorder.Recorder over the record service's wire."""

    remote = True

    def __init__(self) -> None:
        address = settings.WEBHOOK_SERVER_ADDRESS.rstrip("/")
        self._base = address if "://" in address else f"http://{address}"
        self._session = new_session()

    def created(self, task: Task) -> None:
        body = {
            "id": task.pk,
            "model_name": task.model_name,
            "model_version": task.model_version,
            "queue_num": task.queue_num,
            "status": str(task.status),
        }
        status = self._send("POST", {name: value for name, value in body.items() if value != ""}, user_id=task.user_id)
        if status == 409:
            self._expect(task.pk, str(task.status))

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
            response = self._session.get(f"{self._base}/live", timeout=READY_SECONDS, allow_redirects=False)
        except requests.RequestException:
            return False
        return response.status_code == 200

    def check(self) -> Health:
        """Asks for a task that there is not: whoever lets us in says so."""
        try:
            response = self._session.get(
                f"{self._base}/task/doctor",
                headers={"apikey": settings.WEBHOOK_APIKEY},
                timeout=CHECK_SECONDS,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            reason = type(error).__name__
            return problem(f"{self._base} does not answer ({reason})", "Is WEBHOOK_SERVER_ADDRESS right, and it up?")
        if response.status_code in (401, 403):
            return problem(f"{self._base} refuses the key", "Set WEBHOOK_APIKEY to the one that is set there.")
        if response.status_code not in (200, 404):
            return warning(f"{self._base} answers {response.status_code}", "Look at its log.")
        return ok(f"{self._base} answers, and accepts the key")

    def _send(self, method: str, body: dict[str, Any], *, user_id: str = "") -> int:
        """Sends until it is taken, three times at most. Answers 200, or 409 for a conflict that a lost reply explains.

        Raises RecordUnavailable and RecordRefused.
        """
        reason = ""
        for tries in range(TRIES):
            if tries:
                time.sleep(FIRST_WAIT_SECONDS * 2**tries)
            try:
                response = self._session.request(
                    method,
                    f"{self._base}/task",
                    json=body,
                    headers={"apikey": settings.WEBHOOK_APIKEY, "UID": user_id},
                    timeout=TIMEOUT_SECONDS,
                    allow_redirects=False,
                )
            except requests.RequestException as error:
                reason = f"{type(error).__name__}"
                continue
            if response.status_code == 409:
                return 409
            if response.status_code in REFUSALS:
                raise RecordRefused(f"{method} /task was answered {response.status_code}")
            if response.status_code == 200 and _is_record(response):
                return 200
            reason = f"it answered {response.status_code}"
        logger.warning("the record service did not take %s /task: %s", method, reason, extra={"task_id": body["id"]})
        raise RecordUnavailable(f"the record service did not take it: {reason}")

    def _expect(self, task_id: str, status: str) -> None:
        """After a conflict: fine if the record already says what was to be written."""
        try:
            response = self._session.get(
                f"{self._base}/task/{task_id}",
                headers={"apikey": settings.WEBHOOK_APIKEY},
                timeout=TIMEOUT_SECONDS,
                allow_redirects=False,
            )
            stands = response.json().get("status") if response.status_code == 200 else None
        except (requests.RequestException, AttributeError) as error:
            raise RecordUnavailable("the record service did not answer") from error
        if stands != status:
            raise RecordRefused(f"the record says {stands!r} and cannot become {status!r}")


def _is_record(response: requests.Response) -> bool:
    """Whether the answer is the wire's: an object with the task's id."""
    try:
        return bool(response.json().get("id"))
    except (requests.RequestException, AttributeError):
        return False
