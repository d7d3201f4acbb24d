"""kservehelper as a peer: the model side of the upload webhook."""

from pathlib import Path

from tests.helpers.ports import free_port
from tests.helpers.virtualenvs import Environment
from tests.peers.peers import Peer

HELPER = Environment("kservehelper", ("kservehelper==2.0.0",), pythons=("3.11", "3.10"))
OLD_HELPER = Environment(
    "kservehelper", ("kservehelper==1.2.6", "setuptools==69.5.1", "cloudevents==1.13.0"), pythons=("3.10",)
)
MODEL = Path(__file__).parent / "helper_model.py"


class HelperServer(Peer):
    """One model of tests/peers/helper_model.py, with the kservehelper of `environment`."""

    def __init__(self, environment: Environment, model: str, directory: Path) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        super().__init__(
            [str(environment.python), str(MODEL), model, f"--http_port={port}", "--enable_grpc=false"],
            url=f"http://{self.address}/v2/health/ready",
            log=directory / f"{model}.log",
            environment={"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        )
