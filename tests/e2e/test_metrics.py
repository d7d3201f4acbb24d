"""/metrics over real processes: what two web processes and a worker counted, told by any of them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from predictions.models import Task
from tests.e2e.conftest import SlowPlatform
from tests.ports import free_port
from tests.predictions.test_cancel import until
from tests.servers import Server

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
        assert samples[("task_queue_size",)] == 0
    assert requests.get(f"http://{address}/live", timeout=30).json() == {"message": "worker OK"}
    assert requests.get(f"http://{address}/v1/predict", timeout=30).status_code == 404

    web.kill()  # counters outlive their process
    assert told(f"http://{address}")[("http_requests_total", "/v1/predict")] == 20
    worker.kill()


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
