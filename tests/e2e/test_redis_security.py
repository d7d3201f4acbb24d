"""TLS with certificates of one's own, and passwords, on every kind of Redis."""

from collections.abc import Callable
from pathlib import Path

import pytest
import requests
import trustme

from predictions.models import Task
from tests.predictions.test_cancel import until
from tests.redis_servers import HOST, Security
from tests.redis_topologies import KINDS, running
from tests.servers import Server

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("kind", KINDS)]

Serve = Callable[..., Server]
PASSWORD = "a-password-that-nobody-logs"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    certificate = authority.issue_cert(HOST)
    authority.cert_pem.write_to_path(directory / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(directory / "server.pem")
    certificate.private_key_pem.write_to_path(directory / "server.key")
    return directory


def submit(web: Server) -> requests.Response:
    return requests.post(f"{web.url}/async/v1/predict", json={"model_name": "m", "inputs": {}}, timeout=30)


def test_a_task_is_run_over_tls_with_a_password(serve: Serve, tmp_path: Path, certificates: Path, kind: str) -> None:
    with running(kind, tmp_path / "redis", security=Security(PASSWORD, certificates)) as servers:
        web, worker = (serve(process, **servers.environment()) for process in ("web", "worker"))
        until(lambda: requests.get(f"{web.url}/ready", timeout=30).json()["ready"])
        assert submit(web).status_code == 200
        until(lambda: Task.objects.get().status == "succeeded")
        assert PASSWORD not in web.output() + worker.output()


@pytest.mark.parametrize(
    "wrong",
    [
        {"REDIS_PASSWORD": "another"},
        {"REDIS_TLS_CA_FILE": ""},
        {"REDIS_TLS_CERT_FILE": "", "REDIS_TLS_KEY_FILE": ""},
        {"REDIS_TLS": "false", "REDIS_TLS_CA_FILE": "", "REDIS_TLS_CERT_FILE": "", "REDIS_TLS_KEY_FILE": ""},
    ],
    ids=["a wrong password", "an unknown authority", "no certificate of its own", "no TLS"],
)
def test_an_agent_that_is_not_let_in_says_that_redis_is_away(
    serve: Serve, tmp_path: Path, certificates: Path, kind: str, wrong: dict[str, str]
) -> None:
    with running(kind, tmp_path / "redis", security=Security(PASSWORD, certificates)) as servers:
        environment = servers.environment() | wrong
        web = serve("web", **environment)
        assert requests.get(f"{web.url}/ready", timeout=30).json()["checks"]["redis"] == "does not answer"
        answer = submit(web)
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert PASSWORD not in web.output()
