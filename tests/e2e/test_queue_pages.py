"""django-rq's pages over HTTP, with a worker and a scheduler at work, on whichever kind of Redis `TEST_REDIS` names."""

import re
from collections.abc import Callable

import pytest
import requests
from django.contrib.auth.models import User

from predictions.models import Task
from tests.helpers.servers import Server
from tests.helpers.slow_platform import SlowPlatform
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

Serve = Callable[..., Server]
PAGES = "/admin/django_rq/dashboard/"


class Operator:
    """Signed in to the admin."""

    def __init__(self, web: Server) -> None:
        User.objects.create_superuser("operator", password="a password")
        self._url = web.url
        self._session = requests.Session()
        answer = self.post("/admin/login/", username="operator", password="a password", next="/admin/")
        assert answer.url == f"{web.url}/admin/", answer.text

    def get(self, path: str) -> requests.Response:
        return self._session.get(f"{self._url}{path}", timeout=60)

    def post(self, path: str, **fields: str) -> requests.Response:
        self.get(path)  # for its cookie
        token = self._session.cookies["csrftoken"]
        return self._session.post(
            f"{self._url}{path}",
            data={**fields, "csrfmiddlewaretoken": token},
            headers={"Referer": self._url},
            timeout=60,
        )

    def walk(self) -> dict[str, str]:
        """Every page that the first one leads to, in any number of steps: path → text."""
        pages: dict[str, str] = {}
        to_visit = [PAGES]
        for path in to_visit:  # which grows by the links of each page
            answer = self.get(path)
            assert answer.status_code == 200, f"{path}: {answer.status_code}"
            pages[path] = answer.text
            links = re.findall(rf'href="({PAGES}[^"?#]*)', answer.text)
            to_visit += [link for link in dict.fromkeys(links) if link not in to_visit]
        return pages


def test_every_page_is_there_and_its_buttons_reach_the_worker(serve: Serve, slow_platform: SlowPlatform) -> None:
    web = serve("web", **slow_platform.environment())
    for process in ("worker", "scheduler"):
        serve(process, WORKER_CONCURRENCY="1", **slow_platform.environment())

    def submit(seconds: int) -> str:
        body = {"model_name": "m", "inputs": {"sleep": seconds}}
        return str(requests.post(f"{web.url}/async/v1/predict", json=body, timeout=30).json()["id"])

    finished = submit(0)
    until(lambda: Task.objects.get(pk=finished).status == "succeeded")
    running, waiting = submit(600), submit(600)
    until(lambda: Task.objects.get(pk=running).status == "running")
    operator = Operator(web)
    until(lambda: "cron-schedulers" in operator.get(PAGES).text)
    pages = operator.walk()
    for task_id in (finished, running, waiting):
        assert any(path.endswith(f"/{task_id}/") for path in pages), task_id
    for kind in ("queues", "workers", "cron-schedulers"):
        assert any(f"/{kind}/" in path for path in pages), kind
    (job,) = [path for path in pages if path.endswith(f"/{running}/")]
    assert operator.post(f"{job}stop/").status_code == 200
    until(lambda: Task.objects.get(pk=running).status == "canceled")
    until(lambda: Task.objects.get(pk=waiting).status == "running")
    print(f"\n{len(pages)} pages")
