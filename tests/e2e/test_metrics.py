"""/metrics over real processes: what two web processes and a worker counted, told by any of them."""

import platform
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from django.conf import settings
from prometheus_client.parser import text_string_to_metric_families

from predictions.models import Task
from tests.e2e.databases import reachable_here
from tests.e2e.small_disk import small_disk
from tests.helpers.ports import free_port
from tests.helpers.servers import Server
from tests.helpers.slow_platform import SlowPlatform
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow


def told(url: str) -> dict[tuple[str, ...], float]:
    text = requests.get(f"{url}/metrics", timeout=30).text
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_add_up_over_web_and_worker_processes(
    serve: Callable[..., Server], slow_platform: SlowPlatform, tmp_path: Path
) -> None:
    address = f"127.0.0.1:{free_port()}"
    environment = {**slow_platform.environment(), "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "MAX_QUEUE_SIZE": "100"}
    web = serve("web", WEB_CONCURRENCY="2", **environment)
    worker = serve("worker", WORKER_METRICS_ADDRESS=address, **environment)
    body = {"model_name": "m", "inputs": {}}
    for _ in range(20):  # each on a connection of its own, so that both processes get some
        assert requests.post(f"{web.url}/v1/predict", json=body, timeout=30).status_code == 200
        assert requests.post(f"{web.url}/async/v1/predict", json=body, timeout=30).status_code == 200
    until(lambda: Task.objects.filter(status="succeeded").count() == 40)
    until(lambda: told(web.url)[("async_predict_time_count",)] == 20)
    for url in (web.url, f"http://{address}"):
        samples = told(url)
        assert samples[("http_requests_total", "/v1/predict")] == 20
        assert samples[("tasks_finished_total", "m", "succeeded")] == 40
        assert samples[("platform_request_seconds_count", "succeeded", "k8s")] == 40
        assert samples[("workers",)] == 1
        assert samples[("build_info", platform.python_version(), settings.VERSION)] == 1
        assert samples[("task_queue_size",)] == 0
    assert requests.get(f"http://{address}/live", timeout=30).json() == {"message": "worker OK"}
    assert requests.get(f"http://{address}/v1/predict", timeout=30).status_code == 404

    web.kill()  # counters outlive their process
    assert told(f"http://{address}")[("http_requests_total", "/v1/predict")] == 20
    worker.kill()


OUTCOMES = {
    "succeeded",
    "stopped",
    "error",
    "invalid_inputs",
    "platform_error",
    "platform_timeout",
    "platform_unavailable",
    "unsupported",
}


def test_at_the_first_scrape_every_count_is_there_and_zero(serve: Callable[..., Server], tmp_path: Path) -> None:
    """Before the first request, and without a worker: Prometheus misses the first step of a counter that appears
    later."""
    environment = {"ML_PLATFORM": "k8s", "K8SPLUGIN_ADDRESS": "127.0.0.1:1", "MODEL_NAME": "m"}
    web = serve("web", PROMETHEUS_MULTIPROC_DIR=str(tmp_path), **environment)
    first = told(web.url)
    for name in ("num_tasks_set_to_failed", "async_predict_failure_total", "async_predict_time_count"):
        assert first[(name,)] == 0
    for route in ("/v1/predict", "/async/v1/predict", "/v1/generate", "/task/{task_id}", "/cancel/{task_id}", "other"):
        assert first[("http_requests_total", route)] == 0
        assert first[("http_response_time_seconds_count", route)] == 0
        assert first[("response_status", route, "200")] == 0
    for status in ("succeeded", "failed", "canceled"):
        assert first[("tasks_finished_total", "m", status)] == 0
    for outcome in OUTCOMES:
        assert first[("platform_request_seconds_count", outcome, "k8s")] == 0


def test_a_full_disk_under_the_counts_ends_no_process(
    serve: Callable[..., Server], slow_platform: SlowPlatform, tmp_path: Path
) -> None:
    """With everything of a small installation on one disk: SQLite, uploads and counts."""
    with (
        small_disk(tmp_path / "disk", megabytes=8) as disk,
        reachable_here(url := f"sqlite:///{tmp_path / 'agent.sqlite3'}"),
    ):
        (disk.path / "metrics").mkdir()
        environment = {
            **slow_platform.environment(),
            "DATABASE_URL": url,
            "PROMETHEUS_MULTIPROC_DIR": str(disk.path / "metrics"),
        }
        web = serve("web", WEB_CONCURRENCY="2", **environment)
        disk.fill()
        worker = serve("worker", **environment)  # it must create its files again
        ids = []
        for number in range(60):
            body = {"model_name": f"model-{number}", "inputs": {"n": number}}  # a series of its own for each
            answer = requests.post(f"{web.url}/v1/predict", json=body, timeout=30)
            assert (answer.status_code, answer.json()["outputs"]) == (200, {"n": number})
            ids.append(requests.post(f"{web.url}/async/v1/predict", json=body, timeout=30).json()["id"])
            assert requests.get(f"{web.url}/metrics", timeout=30).status_code == 200
            until(lambda: Task.objects.using("own").filter(pk=ids[-1], status="succeeded").exists())
        disk.free()
        until(lambda: ("http_requests_total", "/v1/predict") in told(web.url))
        assert requests.post(f"{web.url}/v1/predict", json=body, timeout=30).status_code == 200
        for process in (web, worker):
            assert process.process.poll() is None
            assert "was sent SIG" not in process.output()
            assert "Traceback" not in process.output()


def test_a_workers_port_asks_for_the_metrics_key(serve: Callable[..., Server]) -> None:
    address = f"127.0.0.1:{free_port()}"
    serve("worker", WORKER_METRICS_ADDRESS=address, METRICS_KEY="scraper")

    def answers() -> bool:
        try:
            return requests.get(f"http://{address}/live", timeout=5).ok
        except requests.ConnectionError:
            return False

    until(answers, seconds=60)
    assert requests.get(f"http://{address}/metrics", timeout=30).status_code == 401
    assert requests.get(f"http://{address}/metrics", headers={"apikey": "scraper"}, timeout=30).status_code == 200
