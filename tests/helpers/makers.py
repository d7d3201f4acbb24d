"""Platforms as the tests build them: plain values, short waits."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from platforms import Call, Prediction
from platforms.http import HttpPlatform
from platforms.k8s import K8s
from platforms.kserve import KServe
from platforms.polling import PollingPlatform
from platforms.replicate import Replicate
from platforms.runpod import RunPod
from tests.helpers.stub import Step, Stub, answers

P = TypeVar("P", bound=PollingPlatform)
KEY = "a-very-secret-key"
VERSION = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"
JOB = "job-1"
FLOWER = Prediction("iris", {"instances": [[6.8, 2.8, 4.8, 1.4]]})


def call(seconds: float = 10.0, **told: Any) -> Call:
    return Call(timeout_seconds=seconds, **told)


def kserve(address: str, *, timeout: float = 10.0, version: str = "0.13.1", **more: Any) -> KServe:
    platform = KServe(
        address=address,
        version=version,
        domain="example.com",
        namespace="default",
        host_template=more.pop("host_template", "{model}.{namespace}.{domain}"),
        timeout_seconds=timeout,
        **more,
    )
    platform.first_wait_seconds = 0.005
    return platform


def k8s(address: str, *, timeout: float = 10.0, **more: Any) -> K8s:
    platform = K8s(address=address, timeout_seconds=timeout, **more)
    platform.first_wait_seconds = 0.005
    return platform


def replicate(address: str, *, timeout: float = 10.0, model: str = VERSION, **more: Any) -> Replicate:
    url = f"http://{address}/v1/predictions"
    return _quick(Replicate(address=url, api_key=KEY, model=model, timeout_seconds=timeout, **more))


def runpod(address: str, *, timeout: float = 10.0, **more: Any) -> RunPod:
    url = f"http://{address}/v2"
    return _quick(RunPod(address=url, api_key=KEY, endpoint="ep1", timeout_seconds=timeout, **more))


def _quick(platform: P) -> P:
    platform.first_wait_seconds = 0.005
    platform.pace = ((math.inf, 0.01),)
    platform.submit_grace_seconds = 0.2
    platform.cancel_seconds = 0.4
    platform.cancel_try_seconds = 0.15
    return platform


@dataclass(frozen=True)
class Direct:
    """A platform that answers the request itself: its factory, its route, and a good answer."""

    make: Callable[..., HttpPlatform]
    route: str


@dataclass(frozen=True)
class Cloud:
    """A polling platform: how to make it, its routes, and its words."""

    make: Callable[..., PollingPlatform]
    submit: str
    status: str
    cancel: str
    words: dict[str, str]

    def job(self, state: str, **fields: Any) -> Step:
        """An answer about the job: `waiting`, `running`, `succeeded`, `failed` or `canceled`."""
        return answers({"id": JOB, "status": self.words[state], **fields})

    def script(self, stub: Stub, *polls: Step) -> None:
        """A job that is taken, then described by the polls, and can be canceled."""
        stub.script(self.submit, self.job("waiting"))
        stub.script(self.status, *polls)
        stub.script(self.cancel, self.job("canceled"))


KSERVE = Direct(kserve, "POST /v1/models/iris:predict")
K8S = Direct(k8s, "POST /v1/predict")
REPLICATE = Cloud(
    replicate,
    "POST /v1/predictions",
    f"GET /v1/predictions/{JOB}",
    f"POST /v1/predictions/{JOB}/cancel",
    {name: name for name in ("succeeded", "failed", "canceled")} | {"waiting": "starting", "running": "processing"},
)
RUNPOD = Cloud(
    runpod,
    "POST /v2/ep1/run",
    f"GET /v2/ep1/status/{JOB}",
    f"POST /v2/ep1/cancel/{JOB}",
    {
        "waiting": "IN_QUEUE",
        "running": "IN_PROGRESS",
        "succeeded": "COMPLETED",
        "failed": "FAILED",
        "canceled": "CANCELLED",
    },
)
