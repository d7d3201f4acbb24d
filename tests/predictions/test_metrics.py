"""GET /metrics: SPEC's names, counted over the API, and added up over processes."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rest_framework.test import APIClient

from predictions.models import Task
from predictions.queue import queue
from predictions.telemetry import counters
from tests.helpers.proxy import Proxy
from tests.helpers.workers import new_worker

NAMES = {
    "http_requests_total",
    "response_status",
    "http_response_time_seconds",
    "task_queue_size",
    "task_queue_size_ratio",
    "num_tasks_set_to_failed",
    "async_predict_failure_total",
    "async_predict_time",
    "task_queue_oldest_seconds",
    "tasks_running",
    "tasks_finished_total",
    "platform_request_seconds",
    "workers",
    "build_info",
}
IRIS: dict[str, Any] = {"model_name": "iris", "inputs": {"n": 1}}


def scrape(client: APIClient) -> dict[str, float]:
    """Sample name with its labels → value."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    families = text_string_to_metric_families(answer.content.decode())
    return {
        sample.name + "".join(f",{name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def grown(client: APIClient, act: Callable[[], object]) -> dict[str, float]:
    """By how much each sample grew while `act` ran."""
    before = scrape(client)
    act()
    after = scrape(client)
    return {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}


def test_every_promised_name_is_there_once_something_happened(
    client: APIClient, work: Callable[..., object], configured: Callable[..., None]
) -> None:
    client.post("/v1/predict", IRIS, format="json")
    client.post("/async/v1/predict", {**IRIS, "inputs": {"raise": "KeyError"}}, format="json")
    work()
    counters.tasks_set_to_failed(1)
    text = client.get("/metrics").content.decode()
    assert {name for name in NAMES if re.search(rf"^{name}(_bucket)?[{{ ]", text, re.MULTILINE)} == NAMES


def test_a_torn_file_of_counts_does_not_spoil_the_metrics(client: APIClient, settings: Any) -> None:
    torn = Path(settings.METRICS_DIR) / "counter_1-ab.db"
    torn.write_bytes(b"\xff\xff\xff\x7ftorn")
    assert scrape(client)["http_requests_total,path=/metrics"] >= 0
    torn.unlink(missing_ok=True)


def test_a_prediction_counts_its_request_its_task_and_its_platform(client: APIClient) -> None:
    told = grown(client, lambda: client.post("/v1/predict", IRIS, format="json"))
    assert told["http_requests_total,path=/v1/predict"] == 1
    assert told["response_status,path=/v1/predict,status=200"] == 1
    assert told["http_response_time_seconds_count,path=/v1/predict"] == 1
    assert told["tasks_finished_total,model=iris,status=succeeded"] == 1
    assert told["platform_request_seconds_count,outcome=succeeded,platform=local"] == 1


def test_callers_paths_create_no_series(client: APIClient) -> None:
    def ask() -> None:
        client.get("/task/none-such")
        client.get("/no/such/route")
        client.get("/live")

    told = grown(client, ask)
    assert told["response_status,path=/task/{task_id},status=404"] == 1
    assert told["response_status,path=other,status=404"] == 1
    assert told["response_status,path=/live,status=200"] == 1


def test_model_names_beyond_the_bound_are_counted_together(client: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "MODELS", 0)
    monkeypatch.setattr(counters, "_models", set())
    told = grown(client, lambda: client.post("/v1/predict", {**IRIS, "model_name": "unheard-of"}, format="json"))
    assert told["tasks_finished_total,model=other,status=succeeded"] == 1


def test_metrics_report_the_queue_and_its_workers(client: APIClient, configured: Callable[..., None]) -> None:
    configured(MAX_QUEUE_SIZE=10)
    for _ in range(3):
        client.post("/async/v1/predict", IRIS, format="json")
    Task.objects.create(status="running", agent="default", model_name="m")
    worker = new_worker()
    worker.register_birth()
    worker._supervisor.beat()
    told = scrape(client)
    assert (told["task_queue_size"], told["task_queue_size_ratio"], told["tasks_running"]) == (3, 0.3, 1)
    assert (told["workers"], told["worker_slots"]) == (1, 8)
    assert told["task_queue_oldest_seconds"] > 0
    assert told["worker_slots_busy"] == 0  # the running task is a sync one
    worker._claim(2)
    told = scrape(client)
    assert (told["task_queue_size"], told["worker_slots_busy"]) == (1, 2)
    queue.get_redis().hset(worker.key, "beat_at", 1)
    assert scrape(client)["workers"] == 0


def test_metrics_report_counters_while_redis_is_away(client: APIClient, redis_proxy: Proxy) -> None:
    redis_proxy.cut()
    client.post("/v1/predict", IRIS, format="json")
    told = scrape(client)
    assert "task_queue_size" not in told
    assert told["tasks_finished_total,model=iris,status=succeeded"] >= 1


def test_with_a_metrics_key_only_its_holder_may_scrape(client: APIClient, configured: Callable[..., None]) -> None:
    assert client.get("/metrics").status_code == 200
    configured(METRICS_KEY="scraper")
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"apikey": "operator-key"}).status_code == 401
    assert client.get("/metrics", headers={"apikey": "scraper"}).status_code == 200
    assert client.get("/metrics", headers={"Authorization": "Bearer scraper"}).status_code == 200


def test_a_scrape_costs_one_query_and_one_round_trip(
    client: APIClient, django_assert_num_queries: Any, redis_proxy: Proxy
) -> None:
    client.get("/metrics")
    before = redis_proxy.requests
    with django_assert_num_queries(1):
        client.get("/metrics")
    assert redis_proxy.requests - before == 1
