"""What this process counts for Prometheus; /metrics adds up all processes of the host (metrics.py).

A metric with labels writes to its file when it first has their values, one without labels as soon as it exists. So the
latter are made at their first use, and a command that counts nothing leaves no file behind. A process that serves makes
all when it starts (`begin_at_zero`): a counter that appears with its first count looks to Prometheus as if it had never
been increased.
"""

import threading
from collections.abc import Iterable
from functools import cache, lru_cache

from prometheus_client import Counter, Gauge, Histogram

from platforms import InvalidInputs, PlatformError, PlatformTimeout, PlatformUnavailable, Unsupported

PLATFORM_ERRORS = (InvalidInputs, PlatformError, PlatformTimeout, PlatformUnavailable, Unsupported)
MODELS = 200
"""How many model names a process tells apart; callers choose them, so the rest is counted as `other`."""
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

_making = threading.Lock()  # two threads at once would register a metric twice

# SPEC fixes the names. The gauges are counters whose names end in no `_total`.
_http_requests = Counter("http_requests", "HTTP requests answered.", ["path"])
_response_status = Gauge(
    "response_status", "HTTP answers by status; only grows.", ["path", "status"], multiprocess_mode="sum"
)
_http_response_time = Histogram(
    "http_response_time_seconds", "Seconds until the answer began.", ["path"], buckets=_SECONDS
)
_tasks_finished = Counter("tasks_finished", "Tasks that ended.", ["model", "status"])
_platform_request = Histogram(
    "platform_request_seconds",
    "Seconds that the platform took for a prediction.",
    ["platform", "outcome"],
    buckets=_SECONDS,
)


@cache
def _set_to_failed() -> Gauge:
    help_text = "Lost or archived tasks that a check, a sweep or a drain failed; only grows."
    return Gauge("num_tasks_set_to_failed", help_text, multiprocess_mode="sum")


@cache
def _async_failures() -> Counter:
    return Counter("async_predict_failure", "Predictions in workers that failed.")


@cache
def _async_time() -> Histogram:
    return Histogram("async_predict_time", "Seconds that predictions in workers took.", buckets=_SECONDS)


_models: set[str] = set()
OUTCOMES = ("succeeded", "stopped", "error", *sorted({error.outcome for error in PLATFORM_ERRORS}))
"""What becomes of a prediction, as the platform sees it."""


def begin_at_zero(*, platform: str, routes: Iterable[str] = (), models: Iterable[str] = ()) -> None:
    """Makes every metric, with the labels that are known before anything happens."""
    with _making:
        for metric in (_set_to_failed, _async_failures, _async_time):
            metric()
    for route in routes:
        _of_route(route, 200)
    for model in models:
        for status in ("succeeded", "failed", "canceled"):
            _of_model(model, status)
    for outcome in OUTCOMES:
        _of_platform(platform, outcome)


def request_answered(path: str, status: int, seconds: float) -> None:
    """Counts an HTTP answer. `path` is the route, such as `/task/{task_id}`, so that there are few."""
    requests, answers, times = _of_route(path, status)
    requests.inc()
    answers.inc()
    times.observe(seconds)


@lru_cache(maxsize=1024)
def _of_route(path: str, status: int) -> tuple[Counter, Gauge, Histogram]:
    """What counts these answers; a metric looks it up slowly."""
    return (
        _http_requests.labels(path),
        _response_status.labels(path, str(status)),
        _http_response_time.labels(path),
    )


def task_finished(model_name: str, status: str) -> None:
    if model_name not in _models:
        if len(_models) >= MODELS:
            model_name = "other"
        _models.add(model_name)
    _of_model(model_name, status).inc()


@lru_cache(maxsize=1024)
def _of_model(model_name: str, status: str) -> Counter:
    return _tasks_finished.labels(model_name, status)


def tasks_set_to_failed(count: int) -> None:
    with _making:
        failed = _set_to_failed()
    failed.inc(count)


def async_prediction(seconds: float, *, failed: bool) -> None:
    """A prediction that a worker ran, and the seconds it took."""
    with _making:
        times, failures = _async_time(), _async_failures()
    times.observe(seconds)
    if failed:
        failures.inc()


def platform_answered(platform: str, outcome: str, seconds: float) -> None:
    """A prediction as the platform saw it; `outcome` is `succeeded`, `stopped`, or the error's code."""
    _of_platform(platform, outcome).observe(seconds)


@lru_cache(maxsize=256)
def _of_platform(platform: str, outcome: str) -> Histogram:
    return _platform_request.labels(platform, outcome)
