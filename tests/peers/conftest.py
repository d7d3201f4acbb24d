"""Real model servers and a real ingress, and the agent in front of them. Nothing of the agent is patched."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from tests.helpers.servers import Server
from tests.peers.agent import Agent, NewAgent
from tests.peers.ingress import Ingress
from tests.peers.model_server import KSERVE, ModelServer


@pytest.fixture
def agent(serve: Callable[..., Server]) -> Iterator[NewAgent]:
    """Starts an agent in front of the KServe at `address`; `worker=True` for async predictions too."""
    with requests.Session() as session:
        session.trust_env = False
        session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=64))

        def start(address: str, *, worker: bool = False, **environment: str) -> Agent:
            environment = {"ML_PLATFORM": "kserve", "KSERVE_ADDRESS": address, **environment}
            web = serve("web", **environment)
            return Agent(web, serve("worker", **environment) if worker else None, session)

        yield start


@pytest.fixture(scope="session")
def shared_model_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    KSERVE.ready()
    server = ModelServer(tmp_path_factory.mktemp("kserve"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def kserve(shared_model_server: ModelServer) -> ModelServer:
    """A running model server that other tests use too: it is not to be stopped."""
    shared_model_server.forget_calls()
    return shared_model_server


@pytest.fixture
def own_kserve(tmp_path: Path) -> Iterator[Callable[..., ModelServer]]:
    """Starts a model server for this test alone, with more options."""
    servers: list[ModelServer] = []

    def start(*options: str) -> ModelServer:
        KSERVE.ready()
        servers.append(ModelServer(tmp_path, options))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def ingress(kserve: ModelServer, tmp_path: Path) -> Iterator[Ingress]:
    """nginx in front of the shared model server, with an access log of this test's own."""
    peer = Ingress(tmp_path, models=kserve.address)
    peer.start()
    yield peer
    peer.kill()
