"""Two agents on one machine: one is the record service of the other."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings
from rest_framework.test import APIClient

from predictions.models import Task
from predictions.operations import maintenance
from predictions.recorder import get_recorder
from tests.helpers import predictors
from tests.helpers.api import submit
from tests.helpers.proxy import Proxy
from tests.helpers.servers import ROOT, Server

Configure = Callable[..., None]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, django_db_setup: None) -> Iterator[Server]:
    """The record service: another agent, with a database of its own, as the Procfile's `webhook` process."""
    import os
    import subprocess
    import sys

    database = f"sqlite:///{tmp_path_factory.mktemp('service') / 'db.sqlite3'}"
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "--verbosity", "0"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": database},
        check=True,
    )
    server = Server("webhook", {"DATABASE_URL": database, "API_KEYS": "nobody", "ALLOW_ANONYMOUS": "false"})
    yield server
    server.kill()


@pytest.fixture
def proxy(service: Server, configured: Configure) -> Iterator[Proxy]:
    proxy = Proxy(f"127.0.0.1:{service.port}")
    get_recorder.cache_clear()
    configured(WEBHOOK_SERVER_ADDRESS=proxy.address, TASK_RECORDER="webhooks.client.HttpRecorder")
    yield proxy
    proxy.close()
    get_recorder.cache_clear()


def recorded(service: Server, task_id: str) -> Any:
    import requests

    return requests.get(f"{service.url}/task/{task_id}", headers={"apikey": "record-key"}, timeout=10).json()


def test_a_sync_prediction_is_recorded_there_too(client: APIClient, service: Server, proxy: Proxy) -> None:
    response = client.post(
        "/v1/predict", {"model_name": "iris", "inputs": {"answer": {"y": 1}}}, format="json", headers={"UID": "ann"}
    )
    body = response.json()
    there = recorded(service, body["id"])
    same = ("id", "model_name", "status", "outputs", "running_time", "error_info")
    assert {key: there[key] for key in same} == {key: body[key] for key in same}
    assert there["status"] == "succeeded"


def test_an_async_prediction_is_followed_through_its_states(
    client: APIClient, service: Server, proxy: Proxy, work: Callable[..., Any]
) -> None:
    task_id = submit(client, {"answer": 1})
    assert (recorded(service, task_id)["status"], recorded(service, task_id)["queue_num"]) == ("pending", 0)
    work()
    there = recorded(service, task_id)
    assert (there["status"], there["outputs"], there["queue_id"]) == ("succeeded", 1, task_id)


def test_failure_and_cancel_are_recorded_there(
    client: APIClient, service: Server, proxy: Proxy, work: Callable[..., Any]
) -> None:
    failing, canceled = submit(client, {"raise": "ValueError", "message": "no good"}), submit(client)
    client.post(f"/cancel/{canceled}")
    work()
    assert recorded(service, failing)["error_info"] == "no good"
    assert recorded(service, canceled)["status"] == "canceled"


def test_a_task_that_has_ended_there_is_not_started(
    client: APIClient, service: Server, proxy: Proxy, work: Callable[..., Any]
) -> None:
    import requests

    task_id = submit(client)
    body, key = {"id": task_id, "status": "canceled"}, {"apikey": "record-key"}
    assert requests.put(f"{service.url}/task", json=body, headers=key, timeout=10).status_code == 200
    work()
    assert predictors.calls == []
    task = Task.objects.get()
    assert (task.status, task.error_info) == ("failed", "the record service refused the task")


@pytest.mark.parametrize("route", ["/v1/predict", "/async/v1/predict"])
def test_without_the_record_service_nothing_is_accepted(client: APIClient, proxy: Proxy, route: str) -> None:
    proxy.cut()
    response = client.post(route, {"model_name": "iris", "inputs": {}}, format="json")
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    assert Task.objects.get().status == "failed"
    assert predictors.calls == []
    assert client.get("/v1/queue_size").json() == {"queue_size": 0}


@pytest.mark.parametrize("route", ["/v1/predict", "/async/v1/predict"])
def test_a_submission_refused_without_the_record_service_is_reported_to_it_later(
    client: APIClient, service: Server, proxy: Proxy, route: str
) -> None:
    proxy.cut()
    body = {"model_name": "iris", "inputs": {}}
    assert client.post(route, body, format="json", headers={"UID": "ann"}).status_code == 503
    task = Task.objects.get()
    proxy.mend()
    assert maintenance.init_check().reported == 1
    there = recorded(service, task.pk)
    assert (there["status"], there["error_info"]) == ("failed", "the task could not be recorded")
    assert not Task.objects.get().unreported


def test_a_submission_refused_without_redis_is_reported_to_the_record_service(
    client: APIClient, service: Server, proxy: Proxy, redis_proxy: Proxy
) -> None:
    redis_proxy.cut()
    response = client.post("/async/v1/predict", {"model_name": "iris", "inputs": {}}, format="json")
    assert response.status_code == 503
    there = recorded(service, Task.objects.get().pk)
    assert (there["status"], there["error_info"]) == ("failed", "the queue did not answer")


def test_the_full_record_is_sent_if_the_record_service_lacks_it(
    client: APIClient, service: Server, proxy: Proxy
) -> None:
    body = {"model_name": "iris", "inputs": {"answer": {"y": 1}}}
    proxy.requests_left = 1
    assert client.post("/v1/predict", body, format="json").status_code == 503
    task = Task.objects.get()
    renamed = f"{task.pk[:-1]}x"
    Task.objects.filter(pk=task.pk).update(id=renamed)  # the record service has none of this name
    proxy.mend()
    assert maintenance.init_check().reported == 1
    there = recorded(service, renamed)
    assert (there["status"], there["outputs"]) == ("succeeded", {"y": 1})


def test_a_result_that_could_not_be_recorded_is_recorded_later_and_not_run_again(
    client: APIClient, service: Server, proxy: Proxy, work: Callable[..., Any]
) -> None:
    task_id = submit(client, {"answer": 1})
    proxy.requests_left = 1  # `running` is taken, `succeeded` is not
    work()
    assert (Task.objects.get().status, Task.objects.get().unreported) == ("succeeded", True)
    assert recorded(service, task_id)["status"] == "running"
    proxy.mend()
    assert maintenance.init_check().reported == 1
    assert recorded(service, task_id)["outputs"] == 1
    assert not Task.objects.get().unreported
    work()
    assert len(predictors.calls) == 1


def test_a_sync_result_that_could_not_be_recorded_is_an_error_and_reported_later(
    client: APIClient, service: Server, proxy: Proxy
) -> None:
    proxy.requests_left = 1
    response = client.post("/v1/predict", {"model_name": "iris", "inputs": {}}, format="json")
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    task = Task.objects.get()
    assert (task.status, task.unreported) == ("succeeded", True)
    proxy.mend()
    assert maintenance.init_check().reported == 1
    assert recorded(service, task.pk)["status"] == "succeeded"


def test_a_lost_reply_is_no_conflict(client: APIClient, service: Server, proxy: Proxy) -> None:
    proxy.drop_replies = True
    import threading

    threading.Timer(0.1, proxy.mend).start()
    response = client.post("/v1/predict", {"model_name": "iris", "inputs": {}}, format="json")
    assert response.status_code == 200
    assert recorded(service, response.json()["id"])["status"] == "succeeded"


def test_ready_says_that_the_record_service_is_down(client: APIClient, proxy: Proxy) -> None:
    assert client.get("/ready").json()["checks"]["record_service"] == "ok"
    proxy.cut()
    assert client.get("/ready").json()["checks"]["record_service"] == "does not answer"


def test_the_webhook_process_serves_the_record_service_alone(service: Server) -> None:
    import requests

    key = {"apikey": "record-key"}
    assert requests.get(f"{service.url}/live", timeout=10).status_code == 200
    assert requests.post(f"{service.url}/task", json={}, headers=key, timeout=10).status_code == 400
    for route in ("/v1/predict", "/admin/", "/pause"):
        response = requests.post(f"{service.url}{route}", json={}, headers=key, timeout=10)
        assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_the_recorder_is_chosen_by_the_settings() -> None:
    assert settings.TASK_RECORDER == "predictions.recorder.Nobody"
    assert not get_recorder().remote
