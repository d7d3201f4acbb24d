"""The agent's processes in front of a peer."""

from collections.abc import Callable
from typing import Any

import requests

from tests.helpers.servers import Server
from tests.helpers.waiting import until

FLOWER = [5.1, 3.5, 1.4, 0.2]
ENDED = ("succeeded", "failed", "canceled")


class Agent:
    """The agent's web process, and a worker if there is one, as a caller sees them."""

    def __init__(self, web: Server, worker: Server | None, session: requests.Session) -> None:
        self.web = web
        self.worker = worker
        self.session = session

    def predict(self, model: str, inputs: dict[str, Any], **headers: str) -> requests.Response:
        return self.post("/v1/predict", model, inputs, **headers)

    def post(self, route: str, model: str, inputs: dict[str, Any], **headers: str) -> requests.Response:
        body = {"model_name": model, "inputs": inputs}
        return self.session.post(f"{self.web.url}{route}", json=body, headers=headers, timeout=60)

    def submit(self, model: str, inputs: dict[str, Any]) -> str:
        response = self.post("/async/v1/predict", model, inputs)
        assert response.status_code == 200, response.text
        return str(response.json()["id"])

    def task(self, task_id: str) -> dict[str, Any]:
        response = self.session.get(f"{self.web.url}/task/{task_id}", timeout=60)
        assert response.status_code == 200, response.text
        task: dict[str, Any] = response.json()
        return task

    def ended(self, task_id: str) -> dict[str, Any]:
        """The task, once it has ended."""
        until(lambda: self.task(task_id)["status"] in ENDED, seconds=30)
        return self.task(task_id)

    def cancel(self, task_id: str) -> requests.Response:
        return self.session.post(f"{self.web.url}/cancel/{task_id}", timeout=60)


NewAgent = Callable[..., Agent]
