"""What lies between RunPod's clients and its workers, in the shape of `https://api.runpod.ai/v2`.

    /v2/{endpoint}/run|runsync|status|stream|cancel|health      for clients, `Authorization: Bearer KEY`
    /v2/{endpoint}/job-take|job-done|job-stream|job-stop|ping   for RunPod's own worker, `Authorization: KEY`

It runs in a thread of the tests' process, so tests can inspect its jobs and requests.
"""

import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

KEY = "rpa_THEKEYOFTHETESTS"
WORKER_KEY = "the-key-of-the-workers"
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")
LONG_POLL_SECONDS = 5.0

Answer = tuple[int, Any]


@dataclass
class Job:
    endpoint: str
    input: Any
    execution_seconds: float
    id: str = field(default_factory=lambda: f"{uuid.uuid4()}-u1")
    status: str = "IN_QUEUE"
    told: dict[str, Any] = field(default_factory=dict)
    pieces: list[Any] = field(default_factory=list)
    put_at: float = field(default_factory=time.monotonic)
    taken_at: float | None = None
    ended_at: float | None = None
    worker: str = ""

    def seen(self) -> dict[str, Any]:
        seen = {"id": self.id, "status": self.status, **self.told}
        if self.taken_at is not None:
            seen |= {"delayTime": int((self.taken_at - self.put_at) * 1000), "workerId": self.worker}
            if self.ended_at is not None:
                seen["executionTime"] = int((self.ended_at - self.taken_at) * 1000)
        return seen


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # five is less than clients that come at once


class Cloud:
    """`jobs` in the order of their submission; `asked` has (route, headers, body) of every request of a client.

    `pods` are the workers that have sent a heartbeat. The next `busy_runs` and `busy_polls` are answered 429.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.busy_polls = 0
        self.busy_runs = 0
        self.execution_seconds = 600.0
        self.pods: set[str] = set()
        self._stops: dict[str, list[str]] = {}
        self._changed = threading.Condition()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        self.address = f"{self.origin}/v2"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def forget(self) -> None:
        self.jobs.clear()
        self.asked.clear()
        self.busy_polls = self.busy_runs = 0
        self.execution_seconds = 600.0

    def count(self, route: str) -> int:
        return sum(asked == route for asked, _, _ in self.asked)

    def answer(self, route: str, endpoint: str, job_id: str, query: dict[str, str], body: Any) -> Answer | None:
        """None: no such route."""
        serve: Callable[..., Answer] | None = getattr(self, f"_{route.replace('-', '_')}", None)
        with self._changed:
            return None if serve is None else serve(endpoint, job_id, query, body)

    # --- For clients

    def _run(self, endpoint: str, _: str, query: dict[str, str], body: Any) -> Answer:
        if self.busy_runs:
            self.busy_runs -= 1
            return 429, {"error": "too many requests"}
        if not isinstance(body, dict) or not body.get("input"):
            return 400, {"error": "input is required"}
        policy = body.get("policy") or {}
        job = Job(endpoint, body["input"], policy.get("executionTimeout", self.execution_seconds * 1000) / 1000)
        self.jobs[job.id] = job
        self._changed.notify_all()
        return 200, {"id": job.id, "status": job.status}

    def _runsync(self, endpoint: str, _: str, query: dict[str, str], body: Any) -> Answer:
        status, answer = self._run(endpoint, _, query, body)
        if status == 200:
            job = self.jobs[answer["id"]]
            self._wait(lambda: job.status in ENDED, float(query.get("wait", 90_000)) / 1000)
            answer = job.seen()
        return status, answer

    def _status(self, endpoint: str, job_id: str, query: dict[str, str], body: Any) -> Answer:
        if self.busy_polls:
            self.busy_polls -= 1
            return 429, {"error": "too many requests"}
        job = self._job(job_id)
        return (200, job.seen()) if job else (404, {"error": "job not found"})

    def _stream(self, endpoint: str, job_id: str, query: dict[str, str], body: Any) -> Answer:
        if (job := self._job(job_id)) is None:
            return 404, {"error": "job not found"}
        pieces, job.pieces = job.pieces, []
        return 200, {"status": job.status, "stream": pieces}

    def _cancel(self, endpoint: str, job_id: str, query: dict[str, str], body: Any) -> Answer:
        if (job := self._job(job_id)) is None:
            return 404, {"error": "job not found"}
        self._end(job, "CANCELLED")
        return 200, {"id": job.id, "status": job.status}

    def _health(self, endpoint: str, job_id: str, query: dict[str, str], body: Any) -> Answer:
        statuses = [job.status for job in self.jobs.values() if job.endpoint == endpoint]
        names = {"completed": "COMPLETED", "failed": "FAILED", "inProgress": "IN_PROGRESS", "inQueue": "IN_QUEUE"}
        jobs = {name: statuses.count(status) for name, status in names.items()}
        return 200, {"jobs": jobs, "workers": {"idle": 0, "running": 1}}

    # --- For workers

    def _job_take(self, endpoint: str, worker: str, query: dict[str, str], body: Any) -> Answer:
        status, jobs = self._job_take_batch(endpoint, worker, query, body)
        return status, jobs[0] if jobs else None

    def _job_take_batch(self, endpoint: str, worker: str, query: dict[str, str], body: Any) -> Answer:
        def queued() -> list[Job]:
            return [job for job in self.jobs.values() if job.endpoint == endpoint and job.status == "IN_QUEUE"]

        self._wait(queued, LONG_POLL_SECONDS)
        taken = queued()[: int(query.get("batch_size", 1))]
        for job in taken:
            job.status, job.worker, job.taken_at = "IN_PROGRESS", worker, time.monotonic()
        return (200, [{"id": job.id, "input": job.input} for job in taken]) if taken else (204, None)

    def _job_done(self, endpoint: str, job_id: str, query: dict[str, str], body: Any) -> Answer:
        job = self._job(job_id)
        if job is not None and job.status not in ENDED:
            job.told = {name: body[name] for name in ("output", "error") if name in body}
            if body.get("status") != "IN_PROGRESS":
                self._end(job, "FAILED" if "error" in body else "COMPLETED")
        return 200, {}

    def _job_stream(self, endpoint: str, job_id: str, query: dict[str, str], body: Any) -> Answer:
        if job := self._job(job_id):
            job.pieces.append(body)
        return 200, {}

    def _job_stop(self, endpoint: str, worker: str, query: dict[str, str], body: Any) -> Answer:
        self._wait(lambda: self._stops.get(worker), LONG_POLL_SECONDS)
        return 200, {"jobsToStop": self._stops.pop(worker, [])}

    def _ping(self, endpoint: str, worker: str, query: dict[str, str], body: Any) -> Answer:
        self.pods.add(worker)
        return 200, {}

    # --- Within

    def _job(self, job_id: str) -> Job | None:
        job = self.jobs.get(job_id)
        if job and job.taken_at and job.status not in ENDED and time.monotonic() > job.taken_at + job.execution_seconds:
            self._end(job, "TIMED_OUT")
        return job

    def _end(self, job: Job, status: str) -> None:
        if job.status in ENDED:
            return
        if job.worker and status in ("CANCELLED", "TIMED_OUT"):
            self._stops.setdefault(job.worker, []).append(job.id)
        job.status, job.ended_at = status, time.monotonic()
        self._changed.notify_all()

    def _wait(self, condition: Callable[[], Any], seconds: float) -> None:
        self._changed.wait_for(condition, seconds)


def _handler(cloud: Cloud) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer is one packet

        def do_GET(self) -> None:
            self._serve("GET")

        def do_POST(self) -> None:
            self._serve("POST")

        def _serve(self, method: str) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.loads(content) if content else None
            split = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(split.query).items()}
            _, _, endpoint, route, *ids = (split.path + "///").split("/")
            of_worker = route.startswith("job-") or route == "ping"
            if not of_worker:
                cloud.asked.append((route, {name.lower(): value for name, value in self.headers.items()}, body))
            if self.headers.get("Authorization") != (WORKER_KEY if of_worker else f"Bearer {KEY}"):
                return self._answer(401, None)
            posted = route in ("run", "runsync", "cancel", "job-done", "job-stream")
            answer = (
                cloud.answer(route, endpoint, _last(ids), query, body) if posted is (method == "POST") else (405, None)
            )
            return self._answer(*(answer or (404, None)))

        def _answer(self, status: int, body: Any) -> None:
            content = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            if content:
                self.send_header("Content-Type", "application/json")
            if status == 429:
                self.send_header("Retry-After", "1")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:  # the other end was killed
                self.close_connection = True

    return Handler


def _last(ids: list[str]) -> str:
    return next((name for name in reversed(ids) if name), "")
