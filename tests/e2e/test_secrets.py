"""Every secret is a marker, whatever can fail does; then logs, answers, pages and rows are searched for markers."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from django.apps import apps
from django.contrib.auth.models import User
from django.db import connection

from predictions.models import Task
from tests.helpers.ports import free_port
from tests.helpers.servers import ROOT, Server, database_url
from tests.helpers.stub import Stub, Visit, answers, head
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

SECRETS = {
    "SECRET_KEY": "mark-secretkey-8Zc1vQp0Jx5mWn3Rk7Ty2Lb9Hs4Gd6FfAaEeUuIiOoPp",
    "API_KEYS": "mark-apikey-q1w2e3",
    "OPERATOR_KEYS": "mark-operatorkey-r4t5y6",
    "WEBHOOK_APIKEY": "mark-webhookkey-u7i8o9",
    "METRICS_KEY": "mark-metricskey-p0a1s2",
    "REDIS_PASSWORD": "mark-redispassword-d3f4g5",
    "REPLICATE_APIKEY": "r8_mark_replicatekey_h6j7k8",
    "RUNPOD_APIKEY": "mark-runpodkey-l9z8x7",
    "AWS_ACCESS_KEY_ID": "MARKAWSACCESSKEYIDC6V5",
    "AWS_SECRET_ACCESS_KEY": "mark-awssecret-b4n3m2",
}
DATABASE_PASSWORD = "mark-databasepassword-w2e3r4"
PASSWORD = "mark-operatorspassword-z9x8c7"
EVERY = [*SECRETS.values(), DATABASE_PASSWORD, PASSWORD]
CALLER = {"apikey": SECRETS["API_KEYS"]}
BODY = {"model_name": "m", "inputs": {"x": 1}}


def echoes(status: int, body: str, content_type: str = "application/json") -> Callable[[Visit], None]:
    """A platform that echoes its request: `KEY` in the body becomes the request's Authorization header."""

    def step(visit: Visit) -> None:
        visit.read_body()
        said = body.replace("KEY", visit.received.headers.get("authorization", "none")).encode()
        visit.send(head(status, {"Content-Type": content_type, "Content-Length": str(len(said))}) + said)

    return step


class Seen:
    """All that callers, browsers and operators were shown."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def ask(self, method: str, url: str, **more: Any) -> requests.Response:
        response = requests.request(method, url, timeout=60, allow_redirects=False, **more)
        self.texts.append(f"{method} {url}: {response.status_code} {response.headers} {response.text}")
        return response


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def stub() -> Iterator[Stub]:
    stub = Stub()
    yield stub
    stub.close()


def leaks(texts: list[str], secrets: list[str] = EVERY) -> list[str]:
    """The secrets in the texts, each with the text around it."""
    return [
        f"{secret}: …{text[max(0, at - 150) : at + 100]!r}…"
        for secret in secrets
        for text in texts
        for at in [match.start() for match in re.finditer(re.escape(secret), text)][:1]
    ]


def rows() -> list[str]:
    """Every row of every table but the users' (their password is a hash)."""
    return [str(list(model._default_manager.values())) for model in apps.get_models() if model._meta.managed]


def with_password() -> str:
    url = database_url()
    return (
        re.sub(r"//([^:/]+):[^@]*@", rf"//\1:{DATABASE_PASSWORD}@", url) if connection.vendor == "postgresql" else url
    )


def pages(seen: Seen, web: Server, *paths: str) -> None:
    """The pages that a signed-in operator sees."""
    with requests.Session() as browser:
        form = browser.get(f"{web.url}/admin/login/", timeout=60).text
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form)
        assert token
        signed_in = browser.post(
            f"{web.url}/admin/login/",
            data={"username": "op", "password": PASSWORD, "csrfmiddlewaretoken": token[1], "next": "/admin/"},
            timeout=60,
            allow_redirects=False,
        )
        assert signed_in.status_code == 302
        for path in paths:
            response = browser.get(f"{web.url}{path}", timeout=60)
            seen.texts.append(f"{path}: {response.status_code} {response.text}")


REPLICATE = {"ML_PLATFORM": "replicate", "REPLICATE_MODEL_ID": "a" * 64}
RUNPOD = {"ML_PLATFORM": "runpod", "RUNPOD_MODEL_ID": "ep1"}
ERRORS = [
    (401, '{"detail": "KEY is not a valid token"}', "application/json"),
    (422, '{"detail": "refused with KEY"}', "application/json"),
    (500, "{\"error\": \"no: headers {'Authorization': 'KEY'}\"}", "application/json"),
    (502, "KEY", "text/plain"),
    (500, "<html>KEY</html>", "text/html"),
    (200, "KEY", "text/plain"),
    (200, '{"id": "KEY"}', "application/json"),
]


@pytest.mark.parametrize("name", ["replicate", "runpod"])
def test_a_platform_that_echoes_its_key(name: str, serve: Callable[..., Server], stub: Stub, seen: Seen) -> None:
    User.objects.create_superuser("op", password=PASSWORD)
    environment = {
        **SECRETS,
        **(REPLICATE if name == "replicate" else RUNPOD),
        "REPLICATE_ADDRESS": f"{stub.url}/v1/predictions",
        "RUNPOD_ADDRESS": f"{stub.url}/v2",
        "DATABASE_URL": with_password(),
        "REDIS_PASSWORD": "",
        "LOG_LEVEL": "DEBUG",
    }
    submit, status = {
        "replicate": ("POST /v1/predictions", "GET /v1/predictions/j1"),
        "runpod": ("POST /v2/ep1/run", "GET /v2/ep1/status/j1"),
    }[name]
    web, worker = serve("web", **environment), serve("worker", **environment)
    for error in ERRORS:
        stub.script(submit, echoes(*error))
        assert seen.ask("POST", f"{web.url}/v1/predict", json=BODY, headers=CALLER).status_code >= 400
    failed = {"replicate": "failed", "runpod": "FAILED"}[name]
    stub.script(submit, answers({"id": "j1", "status": "starting"}))
    stub.script(status, echoes(200, f'{{"id": "j1", "status": "{failed}", "error": "Traceback: KEY was refused"}}'))
    assert seen.ask("POST", f"{web.url}/v1/predict", json=BODY, headers=CALLER).status_code >= 400
    task_id = seen.ask("POST", f"{web.url}/async/v1/predict", json=BODY, headers=CALLER).json()["id"]
    until(lambda: Task.objects.get(pk=task_id).status == "failed")
    for task in Task.objects.all():
        seen.ask("GET", f"{web.url}/task/{task.pk}", headers=CALLER)
    seen.ask("GET", f"{web.url}/metrics", headers={"apikey": SECRETS["METRICS_KEY"]})
    seen.ask("GET", f"{web.url}/openapi.json")
    seen.ask("GET", f"{web.url}/docs")
    queues = "/admin/django_rq/dashboard/"
    task_pages = (f"/admin/predictions/task/{task_id}/change/", f"{queues}queues/0/{task_id}/")
    pages(
        seen,
        web,
        "/admin/",
        "/admin/predictions/task/",
        *task_pages,
        queues,
        "/admin/agent/try",
        "/admin/admin/logentry/",
    )
    doctor = subprocess.run(
        [sys.executable, "manage.py", "doctor"],
        cwd=ROOT,
        env={**worker_environment(), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert any("replicate" in text or "runpod" in text for text in seen.texts)
    assert not leaks([*seen.texts, *rows(), web.output(), worker.output(), doctor.stdout, doctor.stderr])


def worker_environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "ENV_FILE": os.devnull, "REDIS_ADDRESS": os.environ["REDIS_ADDRESS"]}


@pytest.mark.parametrize(
    "environment", [{}, {"ENVIRONMENT": "production", "ALLOWED_HOSTS": "127.0.0.1"}], ids=["text", "json"]
)
def test_redis_and_the_database_down_and_defects(
    environment: dict[str, str], serve: Callable[..., Server], seen: Seen
) -> None:
    nowhere = f"postgres://agent:{DATABASE_PASSWORD}@127.0.0.1:{free_port()}/agent"
    common = {**SECRETS, "LOG_LEVEL": "DEBUG", **environment}
    broken = {**common, "LOCAL_PREDICTOR": "tests.helpers.broken_predictor:predict"}
    no_redis = serve("web", **broken, REDIS_ADDRESS=f"127.0.0.1:{free_port()}")
    wrong_password = serve("web", **broken)  # the tests' Redis knows no password
    no_database = serve("web", **common, DATABASE_URL=nowhere, WEBHOOK_SERVER_ADDRESS=f"127.0.0.1:{free_port()}")
    workers = [serve("worker", **common), serve("worker", **common, DATABASE_URL=nowhere)]
    schedulers = [serve("scheduler", **common)]
    for web in (no_redis, wrong_password, no_database):
        for path in ("/v1/predict", "/async/v1/predict", "/v1/generate"):
            seen.ask("POST", f"{web.url}{path}", json=BODY, headers=CALLER)
        seen.ask("POST", f"{web.url}/upload", files={"file": b"x"}, headers={"apikey": SECRETS["WEBHOOK_APIKEY"]})
        seen.ask("POST", f"{web.url}/pause", headers={"apikey": SECRETS["OPERATOR_KEYS"]})
        seen.ask("GET", f"{web.url}/metrics", headers={"apikey": SECRETS["METRICS_KEY"]})
        for path in ("/ready", "/admin/", "/admin/login/", "/nowhere", "/v1/queue_size"):
            seen.ask("GET", f"{web.url}{path}", headers=CALLER)
    for command in ("doctor", "init_check", "migrate", "purge_tasks"):
        done = subprocess.run(
            [sys.executable, "manage.py", command],
            cwd=ROOT,
            env={**worker_environment(), **common, "DATABASE_URL": nowhere},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0
        seen.texts += [done.stdout, done.stderr]
    seen.texts += [server.output() for server in (no_redis, wrong_password, no_database, *workers, *schedulers)]
    for sign in ("Traceback", '"unavailable"', '"internal_error"'):
        assert any(sign in text for text in seen.texts), sign
    assert not leaks([*seen.texts, *rows()])


def test_a_store_that_refuses_uploads(serve: Callable[..., Server], stub: Stub, seen: Seen) -> None:
    secrets = {**SECRETS, "REDIS_PASSWORD": "", "DATABASE_URL": with_password()}
    web = serve("web", **secrets, AWS_BUCKET="b", AWS_ENDPOINT_URL=stub.url, AWS_REGION="eu", LOG_LEVEL="DEBUG")
    response = seen.ask(
        "POST", f"{web.url}/upload", files={"file": b"x"}, headers={"apikey": SECRETS["WEBHOOK_APIKEY"]}
    )
    assert response.status_code == 503
    assert not leaks([*seen.texts, *rows(), web.output()])


def test_the_token_of_an_upload_is_not_in_the_log(serve: Callable[..., Server], stub: Stub, seen: Seen) -> None:
    environment = {**SECRETS, "REDIS_PASSWORD": "", "ML_PLATFORM": "k8s", "K8SPLUGIN_ADDRESS": stub.address}
    web = serve("web", **environment, LOG_LEVEL="DEBUG")
    stub.script("POST /v1/predict", answers({"fine": True}))
    seen.ask("POST", f"{web.url}/v1/predict", json=BODY, headers=CALLER)
    (token,) = re.findall(r"/u/([^/]+)/upload", stub.received[0].json["inputs"]["upload_webhook"])
    seen.ask("POST", f"{web.url}/u/{token}/upload", files={"file": b"x"})
    assert not leaks([web.output(), *rows()], [token])


def test_debug_pages(serve: Callable[..., Server], seen: Seen) -> None:
    User.objects.create_superuser("op", password=PASSWORD)
    nowhere = f"postgres://agent:{DATABASE_PASSWORD}@127.0.0.1:{free_port()}/agent"
    common = {**SECRETS, "DEBUG": "true", "LOG_LEVEL": "DEBUG"}
    for web in (
        serve("web", **common, **REPLICATE, DATABASE_URL=nowhere, AWS_BUCKET="b"),
        serve("web", **common, **RUNPOD, REDIS_ADDRESS=f"127.0.0.1:{free_port()}"),
    ):
        for path in ("/admin/", "/admin/login/", "/nowhere", "/admin/nowhere", "/media/x"):
            seen.ask("GET", f"{web.url}{path}", headers={**CALLER, "Cookie": "sessionid=mark"})
        seen.ask("POST", f"{web.url}/admin/login/", data={"username": "op", "password": PASSWORD}, headers=CALLER)
        seen.ask("POST", f"{web.url}/v1/predict", json=BODY, headers=CALLER)
        seen.texts.append(web.output())
    assert any("DEBUG = True" in text for text in seen.texts)
    assert not leaks(seen.texts)
