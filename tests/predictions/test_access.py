"""API keys."""

from collections.abc import Callable

import pytest
from rest_framework.test import APIClient

BODY = {"model_name": "iris", "inputs": {}}


@pytest.fixture(autouse=True)
def _keys(configured: Callable[..., None]) -> None:
    configured(API_KEYS=["first", "sécond", "third"], ALLOW_ANONYMOUS=False)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer first"},
        {"apikey": "first"},
        {"authorization": "bearer first"},
        {"apikey": "third"},
    ],
)
def test_a_key_opens_the_api(client: APIClient, headers: dict[str, str]) -> None:
    assert client.post("/v1/predict", BODY, format="json", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, {"apikey": ""}, {"apikey": "firs"}, {"Authorization": "Basic first"}, {"apikey": "fïrst"}]
)
@pytest.mark.parametrize("route", ["/v1/predict", "/async/v1/predict", "/cancel/x"])
def test_nothing_else_does(client: APIClient, headers: dict[str, str], route: str) -> None:
    response = client.post(route, BODY, format="json", headers=headers)
    assert (response.status_code, response.json()["code"]) == (401, "unauthorized")
    assert response["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"API_KEYS": []}, 401),
        ({"API_KEYS": [], "ALLOW_ANONYMOUS": True}, 200),
        ({"API_KEYS": [], "DEBUG": True}, 200),
        ({"ALLOW_ANONYMOUS": True, "DEBUG": True}, 401),
    ],
)
def test_anybody_may_call_where_the_settings_say_so_and_there_are_no_keys(
    client: APIClient, configured: Callable[..., None], changes: dict[str, object], status: int
) -> None:
    configured(**changes)
    assert client.post("/v1/predict", BODY, format="json").status_code == status


@pytest.mark.parametrize("route", ["/task/x", "/v1/queue_size", "/unfinished"])
def test_reading_needs_a_key_too(client: APIClient, route: str) -> None:
    assert client.get(route).status_code == 401


def test_an_operators_key_may_call_too(operator: APIClient) -> None:
    assert operator.post("/v1/predict", BODY, format="json").status_code == 200


def test_the_record_services_key_reads_tasks_and_nothing_more(record_client: APIClient) -> None:
    assert record_client.get("/task/x").status_code == 404
    assert record_client.post("/v1/predict", BODY, format="json").status_code == 403


@pytest.mark.parametrize("route", ["/v1/queue_size", "/pause", "/task/modelstatus", "/upload", "/metrics"])
def test_every_401_says_how_to_say_who_you_are(client: APIClient, configured: Callable[..., None], route: str) -> None:
    configured(METRICS_KEY="metrics-key")
    response = client.get(route)
    assert (response.status_code, response["WWW-Authenticate"]) == (401, 'Bearer realm="serving agent"')


@pytest.mark.parametrize("route", ["/live", "/media/x", "/docs", "/metrics"])
@pytest.mark.parametrize("method", ["POST", "DELETE", "TRACE"])
def test_a_wrong_method_gets_the_allowed_ones(client: APIClient, route: str, method: str) -> None:
    response = client.generic(method, route)
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
    assert response["Allow"] == "GET, HEAD, OPTIONS"


def test_options_tells_the_methods_and_nothing_of_the_code(client: APIClient) -> None:
    response = client.options("/live")
    assert (response.status_code, response["Allow"], response.content) == (200, "GET, HEAD, OPTIONS", b"")


def test_live_and_ready_are_open(client: APIClient) -> None:
    assert client.get("/live").json() == {"message": "API OK"}
    assert client.get("/ready").json()["ready"] is True


def test_ready_skips_the_excluded_checks(
    client: APIClient, configured: Callable[..., None], redis_proxy: object
) -> None:
    configured(MAX_QUEUE_SIZE=0)
    answer = client.get("/ready?exclude=queue")
    assert (answer.status_code, answer.json()["checks"]["redis"]) == (200, "ok")
    redis_proxy.cut()  # type: ignore[attr-defined]
    answer = client.get("/ready?exclude=queue")
    assert (answer.status_code, answer.json()["checks"]["redis"]) == (503, "does not answer")
    answer = client.get("/ready?exclude=redis")
    assert (answer.status_code, list(answer.json()["checks"])) == (200, ["database", "record_service", "process"])
    everything = "&".join(f"exclude={name}" for name in ("database", "redis", "record_service", "process"))
    assert client.get(f"/ready?{everything}").json() == {"ready": True, "checks": {}}


def test_ready_names_the_failed_check(client: APIClient, configured: Callable[..., None], redis_proxy: object) -> None:
    configured(MAX_QUEUE_SIZE=0)
    response = client.get("/ready")
    assert (response.status_code, response.json()["checks"]["redis"]) == (503, "queue full")
    redis_proxy.cut()  # type: ignore[attr-defined]
    response = client.get("/ready")
    assert (response.status_code, response.json()["checks"]["redis"]) == (503, "does not answer")
