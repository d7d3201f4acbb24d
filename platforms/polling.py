"""PollingPlatform: platforms that accept a job, return its id, and are polled until it has ended.

    submit ── id ──► on_submitted ──► ask, wait, ask, … ──► ended
                          ▲
       upstream_id ───────┘ a second attempt starts here: a second job would be run, and paid for, again

A call that stops waiting before the job has ended cancels the job. A shutdown leaves it running for the next attempt.
"""

import logging
import math
import re
import threading
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from platforms.base import (
    NO_ANSWER,
    Call,
    CallStopped,
    PlatformError,
    PlatformTimeout,
    Prediction,
    PredictionResult,
    StopReason,
    lift_running_time,
)
from platforms.http import DEFAULT_MAX_RESPONSE_BYTES, HttpPlatform, Request
from platforms.parsing import loads_or_none
from platforms.reply import AnswerTooLarge

logger = logging.getLogger(__name__)

# Until so many seconds after the submission → seconds between two polls. A job of 2 s is noticed after 125 ms on the
# median, one of 30 s after 0.8 s with 28 polls.
PACE: tuple[tuple[float, float], ...] = ((0.3, 0.1), (2.0, 0.25), (5.0, 1.0), (60.0, 1.6), (math.inf, 2.0))
POLL_TIMEOUT_SECONDS = 10.0
CANCEL_TRIES = 3

_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,199}", re.ASCII)


class JobState(StrEnum):
    """The meaning of a job's status. A word that the platform does not document means WAITING."""

    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    TIMED_OUT = "timed out"


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the platform last described it. `running_time` in seconds; `urls` are the platform's own, by name."""

    id: str
    state: JobState = JobState.WAITING
    output: Any = None
    error: str = ""
    running_time: float | None = None
    urls: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        return self.state is not JobState.WAITING


class PollRefused(PlatformError):
    """The platform refuses to report this job, so polling again is pointless."""


class JobGone(PollRefused):
    """The platform does not know the job, or no longer: there is nothing left to cancel."""


class PollingPlatform(HttpPlatform):
    """Base of the platforms whose predictions are jobs; `address` is the API's, without a slash at its end."""

    refusals = frozenset({400, 413, 422})
    pace = PACE
    submit_grace_seconds = 2.0
    """How long a stopped call waits for its job's id, which it needs to cancel the job."""
    cancel_seconds = 5.0
    """How long canceling a job may take, with all its tries."""
    cancel_try_seconds = 2.0

    def __init__(
        self,
        *,
        address: str,
        api_key: str,
        timeout_seconds: float,
        max_response_bytes: int = DEFAULT_MAX_RESPONSE_BYTES,
        wrap_outputs: bool = False,
    ) -> None:
        """`wrap_outputs`: predictions give `{"output": …}` instead of the bare output."""
        super().__init__(timeout_seconds=timeout_seconds, max_response_bytes=max_response_bytes, api_key=api_key)
        self.wrap_outputs = wrap_outputs
        self.address = address.strip().rstrip("/")
        self.authorization = {"Authorization": f"Bearer {self._api_key}"}

    @abstractmethod
    def submission(self, prediction: Prediction, *, streaming: bool = False) -> Request:
        """What starts a job."""

    @abstractmethod
    def status_url(self, job: Job) -> str:
        """Where to ask about the job."""

    @abstractmethod
    def cancel_url(self, job: Job) -> str:
        """Where to POST that it is not wanted any more."""

    @abstractmethod
    def job_of(self, answer: Mapping[str, Any], job_id: str) -> Job:
        """The job that an answer describes; whatever it leaves out is tolerated."""

    def predict(self, prediction: Prediction, call: Call) -> PredictionResult:
        call.shorten(self.timeout_seconds)
        with self.running(self.submission(prediction), call) as job:
            job = self.wait_for(job, call)
        result = self.result_of(job)
        if self.wrap_outputs:
            return PredictionResult({"output": job.output}, result.running_time)
        return result

    def cancel(self, upstream_id: str, call: Call) -> None:
        self._cancel(Job(upstream_id), call)

    @contextmanager
    def running(self, submission: Request, call: Call, *, resumable: bool = True) -> Iterator[Job]:
        """The call's job, re-attached to or new; canceled upstream if the block is left by any error or a close.

        A shutdown leaves a `resumable` job running.
        """
        job = Job(call.upstream_id) if call.upstream_id else self._submit(submission, call)
        try:
            if not call.upstream_id:
                logger.info("%s took the prediction as its job %s", self.name, job.id)
                call.submitted(job.id)
            yield job
        except JobGone:
            raise
        except BaseException as error:
            shut_down = isinstance(error, CallStopped) and error.reason is StopReason.SHUTDOWN
            if not (shut_down and resumable):
                self._cancel(job, call)
            raise

    def wait_for(self, job: Job, call: Call) -> Job:
        """Asks about the job until it has ended. Raises JobGone, PlatformTimeout at the deadline, and CallStopped."""
        began = time.monotonic()
        patience = 0.0
        while not job.has_ended:
            call.wait(max(self.pause(time.monotonic() - began), patience))
            job, patience = self.poll(job, call)
        return job

    def pause(self, elapsed_seconds: float) -> float:
        """Seconds until the next poll."""
        return next(every for until, every in self.pace if elapsed_seconds < until)

    def poll(self, job: Job, call: Call) -> tuple[Job, float]:
        """The job as the platform describes it now, as far as it does, and the seconds it wants to be left alone."""
        answer, patience = self.ask(self.status_url(job), call)
        if not isinstance(answer, dict):
            return job, patience
        told = self.job_of(answer, job.id)
        return replace(told, urls=job.urls or told.urls), patience

    def ask(self, url: str, call: Call) -> tuple[Any, float]:
        """One poll. Returns the answer (None: poll again) and the seconds that the platform asks to wait.

        Busy, broken, slow and garbled answers are polled again until the call's deadline. Raises
        JobGone for 404, PlatformError for other refusals (401, 403), and as Call.check.
        """
        request = Request("GET", url, headers=self.authorization)
        try:
            with call.part(POLL_TIMEOUT_SECONDS) as part, self.open_once(request, part) as reply:
                if _is_passing(reply.status):
                    logger.info("%s answered %d to a poll", self.name, reply.status)
                    return None, reply.retry_after or 0.0
                self._check_poll(reply.status)
                return loads_or_none(reply.read(self.max_response_bytes)), 0.0
        except (PollRefused, AnswerTooLarge):
            raise
        except PlatformError as error:
            call.check()
            logger.info("%s could not be polled: %s", self.name, error)
            return None, 0.0

    def result_of(self, job: Job) -> PredictionResult:
        """The outputs of an ended job. Raises PlatformError in its words if it did not succeed."""
        if job.state is JobState.SUCCEEDED:
            result = lift_running_time(job.output)
            return result if job.running_time is None else replace(result, running_time=job.running_time)
        if job.state is JobState.CANCELED:
            raise PlatformError(f"the prediction was canceled on the {self.name} platform")
        if job.state is JobState.TIMED_OUT:
            raise PlatformTimeout(f"the {self.name} platform gave the prediction up: it took too long there")
        raise PlatformError(self.presentable(job.error, "could not complete the prediction"))

    def _check_poll(self, status: int) -> None:
        if status == 404:
            raise JobGone(f"the {self.name} platform does not know the job, or no longer (404)")
        if not 200 <= status < 300:
            raise PollRefused(f"the {self.name} platform refused to tell about the job ({status})")

    def _submit(self, submission: Request, call: Call) -> Job:
        """Starts a job. A stopped call waits a moment for the job's id: it needs the id to cancel or re-attach."""
        alone = Call(timeout_seconds=call.remaining(), request_id=call.request_id, traceparent=call.traceparent)
        grace = threading.Timer(self.submit_grace_seconds, lambda: alone.stop(call.reason or StopReason.CANCELED))
        grace.daemon = True
        with call.closing(grace.start):
            try:
                answer = self.send_json(submission, alone, patience=call)
            finally:
                grace.cancel()
        job_id = id_of(answer)
        if job_id is None:
            raise PlatformError(f"the {self.name} platform took the prediction, but gave no id for it")
        return self.job_of(answer, job_id)

    def _cancel(self, job: Job, call: Call) -> None:
        """Cancels the platform's job and notes the result on the call. Raises no PlatformError."""
        note = self._cancellation(
            job, Call(timeout_seconds=self.cancel_seconds, request_id=call.request_id, traceparent=call.traceparent)
        )
        logger.info("canceling the job %s on %s: %s", job.id, self.name, note)
        call.canceled_upstream(note)

    def _cancellation(self, job: Job, call: Call) -> str:
        note = NO_ANSWER
        request = Request("POST", self.cancel_url(job), headers=self.authorization)
        for tries in range(CANCEL_TRIES):
            try:
                call.wait(self.first_wait_seconds * tries)
                with call.part(self.cancel_try_seconds) as part, self.open_once(request, part) as reply:
                    if reply.is_success:
                        return self._note_of(job, loads_or_none(reply.read(self.max_response_bytes)))
                    note = f"refused ({reply.status})"
                    if not _is_passing(reply.status):
                        return note
                    call.wait(reply.retry_after or 0.0)
            except PlatformError as error:
                logger.info("canceling on %s: %s", self.name, error)
        return note

    def _note_of(self, job: Job, answer: Any) -> str:
        """A platform also answers 200 for a job that had ended by itself, and then says so."""
        state = self.job_of(answer, job.id).state if isinstance(answer, dict) else JobState.WAITING
        return "canceled" if state in (JobState.WAITING, JobState.CANCELED) else "already finished"


def _is_passing(status: int) -> bool:
    """Whether a request that does no harm when repeated should be."""
    return status in (408, 429) or status >= 500


def id_of(answer: Any) -> str | None:
    """A job's id, fit to stand in a path; None if there is none."""
    said = answer.get("id") if isinstance(answer, dict) else None
    text = str(said) if isinstance(said, str | int) else ""
    return text if _ID.fullmatch(text) else None
