"""Replicate's predictions API (https://replicate.com/docs/reference/http; seen with its clients 1.0.7 and 1.4.0)."""

import re
from collections.abc import Collection, Generator, Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import SplitResult, urlsplit

from platforms.base import Call, Chunk, PlatformError, Prediction, Unsupported, parse_running_time
from platforms.health import Health, ok, problem, warning
from platforms.http import DEFAULT_MAX_RESPONSE_BYTES, Request
from platforms.parsing import loads_or_none, words_of
from platforms.polling import Job, JobState, PollingPlatform
from platforms.reply import LONGEST_LINE_BYTES, AnswerTooLarge

STATES = {
    "succeeded": JobState.SUCCEEDED,
    "failed": JobState.FAILED,
    "canceled": JobState.CANCELED,
    "aborted": JobState.CANCELED,  # ended before it began
}
GET_AGAIN_ON = frozenset({429, 500, 502, 503, 504})

_OWNER_AND_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
# "The specified version does not exist (or perhaps you don't have permission to use it?)"
_ABOUT_OUR_MODEL = re.compile(
    r"\bversion\b.*\b(not exist|not permitted)|\binvalid version\b", re.IGNORECASE | re.DOTALL
)
_HOST = re.compile(r"[a-z0-9.-]+")


class Replicate(PollingPlatform):
    """One model of Replicate's: `model` is a version, `owner/name` or `owner/name:version`.

    `address` is that of the predictions (`https://api.replicate.com/v1/predictions`). The key goes to its scheme, host
    and port only, whatever URLs an answer names; streams on a host within `stream_domains` are read without it.
    """

    name = "replicate"
    repeat_on = frozenset({429})

    def __init__(
        self,
        *,
        address: str,
        api_key: str,
        model: str,
        timeout_seconds: float,
        max_response_bytes: int = DEFAULT_MAX_RESPONSE_BYTES,
        wrap_outputs: bool = False,
        stream_domains: Collection[str] = (),
    ) -> None:
        super().__init__(
            address=address,
            api_key=api_key,
            timeout_seconds=timeout_seconds,
            max_response_bytes=max_response_bytes,
            wrap_outputs=wrap_outputs,
        )
        self.model = model.strip()
        self.stream_domains = stream_domains

    def submission(self, prediction: Prediction, *, streaming: bool = False) -> Request:
        body: dict[str, Any] = {"input": prediction.inputs_alone()}
        if streaming:
            body["stream"] = True
        if _OWNER_AND_NAME.fullmatch(self.model):
            url = f"{self.address.removesuffix('/predictions')}/models/{self.model}/predictions"
        else:
            url = self.address
            body["version"] = self.model.rpartition(":")[2]
        return Request("POST", url, body, headers=self.authorization)

    def is_our_fault(self, said: str) -> bool:
        """A 422 is for bad inputs (`- input.steps: …`), and for an unknown version: our REPLICATE_MODEL_ID."""
        return not said.lstrip().startswith("-") and _ABOUT_OUR_MODEL.search(said[:300]) is not None

    def status_url(self, job: Job) -> str:
        return self._own(job.urls.get("get")) or f"{self.address}/{job.id}"

    def cancel_url(self, job: Job) -> str:
        return self._own(job.urls.get("cancel")) or f"{self.address}/{job.id}/cancel"

    def job_of(self, answer: Mapping[str, Any], job_id: str) -> Job:
        metrics = answer.get("metrics")
        urls = answer.get("urls")
        return Job(
            job_id,
            state=STATES.get(str(answer.get("status")).lower(), JobState.WAITING),
            output=answer.get("output"),
            error=words_of(answer.get("error")),
            running_time=parse_running_time(metrics.get("predict_time")) if isinstance(metrics, dict) else None,
            urls=urls if isinstance(urls, dict) else {},
        )

    def check(self, model_name: str, call: Call) -> Health:
        """Asks for the key's account, and for the model that is set, where it has a name."""
        api = self.address.removesuffix("/predictions")
        status, _ = self.look(Request("GET", f"{api}/account", headers=self.authorization), call)
        if status in (401, 403):
            return problem(f"the key is refused ({status})", "Set REPLICATE_APIKEY to a token of your account.")
        key = "the key is accepted" if status == 200 else f"it answers, but not for the account ({status})"
        if not (path := self._model_path()):
            return ok(f"{key}; a version without its model's name cannot be checked")
        status, _ = self.look(Request("GET", f"{api}/{path}", headers=self.authorization), call)
        if status == 404:
            return problem(f"there is no {self.model}", "Set REPLICATE_MODEL_ID to a model that the key may use.")
        if status != 200:
            return warning(f"{key}; asked for {self.model} it answers {status}", "Look at Replicate's status page.")
        return ok(f"{key}; {self.model} is there")

    def _model_path(self) -> str:
        """Where the model is described; empty for a bare version."""
        name, _, version = self.model.partition(":")
        if not _OWNER_AND_NAME.fullmatch(name):
            return ""
        return f"models/{name}/versions/{version}" if version else f"models/{name}"

    def stream(self, prediction: Prediction, call: Call) -> Generator[Chunk, None, None]:
        """The `output` events of the job's stream; `logs` are left out, `error` and `done` end it."""
        call.shorten(self.timeout_seconds)
        with self.running(self.submission(prediction, streaming=True), call, resumable=False) as job:
            if job.state in (JobState.WAITING, JobState.SUCCEEDED):
                job = yield from self._streamed(job, call)
        self.result_of(job)

    def _streamed(self, job: Job, call: Call) -> Generator[Chunk, None, Job]:
        number = 0
        with self.open(self._stream_request(job), call) as reply:
            self.check_status(reply)
            for event, data in events(reply.lines()):
                if event == "output":
                    yield Chunk(number, data)
                    number += 1
                elif event == "error":
                    said = loads_or_none(data.encode())
                    return replace(job, state=JobState.FAILED, error=words_of(data if said is None else said))
                elif event == "done":
                    break
            else:
                raise PlatformError("the stream of the replicate platform broke off")
        return self._after_done(job, data, call)

    def _after_done(self, job: Job, data: str, call: Call) -> Job:
        """`done` carries `{}`, or a `reason` for an end that was no success: then the job says which."""
        said = loads_or_none(data.encode())
        if isinstance(said, dict) and said.get("reason"):
            return self.wait_for(replace(job, state=JobState.WAITING), call)
        return replace(job, state=JobState.SUCCEEDED)

    def _stream_request(self, job: Job) -> Request:
        said = job.urls.get("stream")
        if not said:
            raise Unsupported("this model of the replicate platform cannot stream")
        headers = {"Accept": "text/event-stream"}
        if own := self._own(said):
            return Request("GET", own, headers=headers | self.authorization, repeat_on=GET_AGAIN_ON)
        if elsewhere := self._stream_elsewhere(said):
            return Request("GET", elsewhere, headers=headers, repeat_on=GET_AGAIN_ON)
        raise Unsupported("the replicate platform streams from a host that is not its own")

    def _own(self, url: object) -> str | None:
        """A URL of the platform, rebuilt on the configured origin; None if it has another origin."""
        said, ours = _split(url), urlsplit(self.address)
        if said is None or _origin(said) != _origin(ours):
            return None
        return f"{ours.scheme}://{ours.netloc}{_resource(said)}"

    def _stream_elsewhere(self, url: object) -> str | None:
        """A stream's URL on another host, if that is one of `stream_domains` and reached by TLS."""
        said = _split(url)
        host = said.hostname or "" if said is not None else ""
        if said is None or said.scheme != "https" or said.port not in (None, 443) or not _HOST.fullmatch(host):
            return None
        if not any(host == domain or host.endswith(f".{domain}") for domain in self.stream_domains):
            return None
        return f"https://{host}{_resource(said)}"


def events(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """(event, data) of server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""
    event, data, size = "", list[str](), 0
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        size += len(value)
        if size > LONGEST_LINE_BYTES:
            raise AnswerTooLarge("the replicate platform sent an event that is too long")
        if name == "event":
            event = value
        elif name == "data":
            data.append(value)
        elif not line:
            if event:
                yield event, "\n".join(data)
            event, data, size = "", [], 0


def _split(url: object) -> SplitResult | None:
    """None if it is no URL or has an invalid port."""
    if not isinstance(url, str):
        return None
    try:
        parts = urlsplit(url)
        _origin(parts)
    except ValueError:
        return None
    return parts


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _resource(parts: SplitResult) -> str:
    return f"/{parts.path.lstrip('/')}" + (f"?{parts.query}" if parts.query else "")
