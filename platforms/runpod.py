"""RunPod's serverless endpoints (https://docs.runpod.io/serverless; seen with its SDK 1.12.0)."""

import json
import time
from collections.abc import Generator, Mapping
from typing import Any
from urllib.parse import quote

from platforms.base import Call, Chunk, Prediction, parse_running_time
from platforms.health import Health, ok, problem, warning
from platforms.http import DEFAULT_MAX_RESPONSE_BYTES, Request
from platforms.parsing import words_of
from platforms.polling import Job, JobState, PollingPlatform

STATES = {
    "COMPLETED": JobState.SUCCEEDED,
    "FAILED": JobState.FAILED,
    "CANCELLED": JobState.CANCELED,
    "TIMED_OUT": JobState.TIMED_OUT,
}


class RunPod(PollingPlatform):
    """One serverless endpoint; `address` is the API's, such as `https://api.runpod.ai/v2`."""

    name = "runpod"

    def __init__(
        self,
        *,
        address: str,
        api_key: str,
        endpoint: str,
        timeout_seconds: float,
        max_response_bytes: int = DEFAULT_MAX_RESPONSE_BYTES,
        wrap_outputs: bool = False,
    ) -> None:
        super().__init__(
            address=address,
            api_key=api_key,
            timeout_seconds=timeout_seconds,
            max_response_bytes=max_response_bytes,
            wrap_outputs=wrap_outputs,
        )
        self.endpoint = f"{self.address}/{quote(endpoint.strip(), safe='')}"

    def submission(self, prediction: Prediction, *, streaming: bool = False) -> Request:
        return Request("POST", f"{self.endpoint}/run", {"input": prediction.inputs_alone()}, self.authorization)

    def status_url(self, job: Job) -> str:
        return f"{self.endpoint}/status/{job.id}"

    def cancel_url(self, job: Job) -> str:
        return f"{self.endpoint}/cancel/{job.id}"

    def job_of(self, answer: Mapping[str, Any], job_id: str) -> Job:
        """`executionTime` is in milliseconds, and missing at times; an `output` before the end is only progress."""
        milliseconds = parse_running_time(answer.get("executionTime"))
        output = answer.get("output")
        said = answer.get("error") or (output.get("error") if isinstance(output, dict) else None)
        return Job(
            job_id,
            state=_state(answer),
            output=output,
            error=words_of(said),
            running_time=None if milliseconds is None else milliseconds / 1000,
        )

    def check(self, model_name: str, call: Call) -> Health:
        """Asks for the endpoint's health: how many workers and jobs it has."""
        status, said = self.look(Request("GET", f"{self.endpoint}/health", headers=self.authorization), call)
        if status in (401, 403):
            return problem(f"the key is refused ({status})", "Set RUNPOD_APIKEY to a key of the endpoint's account.")
        if status == 404:
            return problem("the endpoint does not exist", "Set RUNPOD_MODEL_ID to the id of a serverless endpoint.")
        if status != 200 or not isinstance(said, dict):
            return warning(f"the endpoint answers {status} when asked for its health", "Look at RunPod's status page.")
        return _health_of(said)

    def stream(self, prediction: Prediction, call: Call) -> Generator[Chunk, None, None]:
        """Polls for the pieces that the job's handler yields, or for its one output."""
        call.shorten(self.timeout_seconds)
        with self.running(self.submission(prediction, streaming=True), call, resumable=False) as job:
            count, job = yield from self._streamed(job, call)
        result = self.result_of(job)
        if not count and result.outputs is not None:
            yield Chunk(0, _text(result.outputs))

    def _streamed(self, job: Job, call: Call) -> Generator[Chunk, None, tuple[int, Job]]:
        """Asking drains the stream, so it is at its end when the job has ended and nothing more comes."""
        count = 0
        came_at = time.monotonic()
        while True:
            answer, patience = self.ask(f"{self.endpoint}/stream/{job.id}", call)
            outputs = _outputs(answer)
            for output in outputs:
                yield Chunk(count, _text(output))
                count += 1
            if outputs:
                came_at = time.monotonic()
            elif job.has_ended:
                return count, job
            elif not _says_waiting(answer):
                job, patience = self.poll(job, call)
                if job.has_ended and isinstance(answer, dict):
                    return count, job
            call.wait(max(self.pause(time.monotonic() - came_at), patience))


def _health_of(said: dict[str, Any]) -> Health:
    """`{"jobs": {"inQueue": 0, …}, "workers": {"idle": 1, "throttled": 0, "unhealthy": 0, …}}`."""
    counts = said.get("workers")
    workers = counts if isinstance(counts, dict) else {}
    told = ", ".join(f"{count} {state}" for state, count in workers.items() if count) or "none up"
    if workers.get("unhealthy"):
        return warning(f"the key is accepted; workers: {told}", "Look at the logs of the endpoint's workers.")
    if workers.get("throttled") and not any(workers.get(state) for state in ("idle", "ready", "running")):
        return warning(f"the key is accepted; workers: {told}", "Give the endpoint more GPU types or a higher limit.")
    return ok(f"the key is accepted; workers: {told}")


def _outputs(answer: Any) -> list[Any]:
    """The pieces since the last poll: `{"status", "stream": [{"output": …}]}`, or the bare list."""
    items = answer.get("stream") if isinstance(answer, dict) else answer
    if not isinstance(items, list):
        return []
    return [item["output"] if isinstance(item, dict) and "output" in item else item for item in items]


def _says_waiting(answer: Any) -> bool:
    """Whether the job may still yield; False if it has ended, or if the answer does not say (a bare list)."""
    return answer is None or (isinstance(answer, dict) and "status" in answer and _state(answer) is JobState.WAITING)


def _state(answer: Mapping[str, Any]) -> JobState:
    return STATES.get(str(answer.get("status")).upper(), JobState.WAITING)


def _text(output: Any) -> str:
    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False, separators=(",", ":"))
