"""TLS with certificates of one's own, and passwords, on every kind of Redis."""

from collections.abc import Callable
from pathlib import Path

import pytest
import redis
import requests
import trustme

from predictions.models import Task
from predictions.redis.connections import forget_connections, get_redis
from tests.helpers.redis_servers import HOST, RedisServer, Security, one_redis
from tests.helpers.redis_topologies import KINDS, SLOTS, running
from tests.helpers.servers import Server
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
Serve = Callable[..., Server]
PASSWORD = "a-password-that-nobody-logs"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    certificate = authority.issue_cert(HOST, "localhost")
    authority.cert_pem.write_to_path(directory / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(directory / "server.pem")
    certificate.private_key_pem.write_to_path(directory / "server.key")
    return directory


def submit(web: Server) -> requests.Response:
    return requests.post(f"{web.url}/async/v1/predict", json={"model_name": "m", "inputs": {}}, timeout=30)


@EVERY_KIND
def test_a_task_is_run_over_tls_with_a_password(serve: Serve, tmp_path: Path, certificates: Path, kind: str) -> None:
    with running(kind, tmp_path / "redis", security=Security(PASSWORD, certificates)) as servers:
        web, worker = (serve(process, **servers.environment()) for process in ("web", "worker"))
        until(lambda: requests.get(f"{web.url}/ready", timeout=30).json()["ready"])
        assert submit(web).status_code == 200
        until(lambda: Task.objects.get().status == "succeeded")
        assert PASSWORD not in web.output() + worker.output()


@EVERY_KIND
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


@pytest.mark.parametrize("hostname", ["localhost", '""'])
def test_with_tls_a_node_is_reached_by_the_name_that_it_announces(
    configured: Callable[..., None], tmp_path: Path, certificates: Path, hostname: str
) -> None:
    """The address that it announces is not in its certificate."""
    security = Security(PASSWORD, certificates)
    options = {
        "bind": f"{HOST} 127.0.0.2",
        "cluster-enabled": "yes",
        "tls-cluster": "yes",
        "cluster-announce-ip": "127.0.0.2",
        "cluster-announce-hostname": hostname,
    }
    node = RedisServer(tmp_path / "node", security, options)
    try:
        node.ask("CLUSTER", "ADDSLOTS", *range(SLOTS))
        until(lambda: node.ask("CLUSTER INFO")["cluster_state"] == "ok")
        tls = {name: str(path) for name, path in security.environment().items() if name.endswith("_FILE")}
        configured(**one_redis(node.address) | {"REDIS_CLUSTER_MODE": True, "REDIS_TLS": True}, **tls)
        configured(REDIS_PASSWORD=PASSWORD)
        forget_connections()
        if hostname == "localhost":
            assert get_redis().role()[0] == b"master"
        else:
            with pytest.raises(redis.ConnectionError, match="certificate is not valid for '127.0.0.2'"):
                get_redis().role()
    finally:
        forget_connections()
        node.kill()
