"""docker-compose.yml: by the Compose specification's schema, by the agent's settings, and really run."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from config import settings as agent_settings
from tests.deploy import podman
from tests.deploy.podman import podman as run_podman
from tests.helpers.deployment_tools import TOOLS
from tests.helpers.pages import DEPLOYING
from tests.helpers.ports import free_port
from tests.helpers.servers import ROOT, procfile
from tests.helpers.waiting import until

FILE = ROOT / "docker-compose.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
AGENTS = {name: service for name, service in SERVICES.items() if service["image"] == "serving-agent"}
IRIS = {"model_name": "iris", "inputs": {"instances": [[5.1, 3.5, 1.4, 0.2]]}}
FILLED_IN = {"SECRET_KEY": "0123456789" * 6, "API_KEYS": "caller", "OPERATOR_KEYS": "operator"}
FILLED_IN["POSTGRES_PASSWORD"] = "letters0and1digits"


def documented_env() -> dict[str, str]:
    """The lines that the deploying page puts into .env, with values of this test's own for `…`."""
    section = DEPLOYING.partition("## One machine: Docker Compose")[2]
    (block,) = re.findall(r"`\.env`.*?```sh\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    lines = dict(line.split("=", 1) for line in block.splitlines() if not line.startswith("#"))
    return {name: FILLED_IN[name] if value == "…" else value for name, value in lines.items()}


def filled_in(text: str, variables: dict[str, str]) -> str:
    """As Compose reads `${NAME}`, `${NAME:-default}` and `${NAME:?message}`."""

    def value(found: re.Match[str]) -> str:
        name, operator, rest = found.groups()
        given = variables.get(name, "")
        assert given or operator != ":?", rest
        return given or (rest if operator == ":-" else "")

    return re.sub(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}", value, text)


def test_the_env_file_of_the_deploying_page_is_enough_for_every_process(tmp_path: Path) -> None:
    lines = documented_env()
    assert len(lines) == 5
    for name, service in AGENTS.items():
        own = {variable: filled_in(value, lines) for variable, value in service["environment"].items()}
        places = {"PATH": os.environ["PATH"], "ENV_FILE": os.devnull, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        urls = {"ROOT_URLCONF": "webhooks.urls"} if name == "webhook" else {}
        ended = subprocess.run(
            [sys.executable, "manage.py", "check", "--fail-level", "WARNING"],
            cwd=ROOT,
            env={**lines, **own, **places, **urls},
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, f"{name}: {ended.stderr}"


def test_compose_asks_for_the_password_that_everything_else_is_made_of() -> None:
    with pytest.raises(AssertionError, match="put POSTGRES_PASSWORD"):
        filled_in(AGENTS["web"]["environment"]["DATABASE_URL"], {})


def test_there_may_be_several_workers() -> None:
    """`--scale` needs a service that claims no name and no port of the machine for itself."""
    (scaled,) = re.findall(r"docker compose .*--scale (\w+)=", DEPLOYING)
    assert not {"container_name", "ports"} & set(AGENTS[scaled])


def test_every_process_of_the_procfile_is_a_service() -> None:
    assert set(AGENTS) == set(procfile())
    for name, service in AGENTS.items():
        assert service["command"] == [name] or name == "release"


def test_one_service_builds_the_image_that_all_of_them_run() -> None:
    assert {name: service["build"] for name, service in SERVICES.items() if "build" in service} == {"release": "."}


def test_release_migrates_and_checks_as_the_procfile_says() -> None:
    in_image = [command.strip() for command in procfile()["release"].split("&&") if "collectstatic" not in command]
    assert AGENTS["release"]["command"][-1] == " && ".join(in_image)


def test_no_process_starts_before_the_database_is_migrated() -> None:
    for name, service in AGENTS.items():
        conditions = {other: wanted["condition"] for other, wanted in service["depends_on"].items()}
        assert conditions.pop("release", None) == (None if name == "release" else "service_completed_successfully")
        assert conditions == {"postgres": "service_healthy", "redis": "service_healthy"}


def test_containers_are_restricted_and_get_the_time_to_finish() -> None:
    for name, service in AGENTS.items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        if name in ("web", "worker", "webhook"):
            assert int(service["stop_grace_period"].removesuffix("s")) >= agent_settings.TASK_TIMEOUT + 35


def test_no_secret_is_written_into_the_file() -> None:
    for service in SERVICES.values():
        for variable, value in service.get("environment", {}).items():
            if re.search("KEY|PASSWORD|SECRET", variable):
                assert value == "" or value.startswith("${")
    assert all(service["env_file"] == ".env" for service in AGENTS.values())


def test_ports_are_open_to_this_machine_alone_by_default() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(re.fullmatch(r"\$\{\w+:-127\.0\.0\.1:\d+\}:\d+", port) for port in published)


@pytest.mark.slow
def test_the_schema_finds_nothing(tmp_path: Path) -> None:
    judge = [TOOLS.ready().path / "bin" / "check-jsonschema", "--builtin-schema", "vendor.compose-spec"]
    ended = subprocess.run([*judge, FILE], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout
    (tmp_path / "wrong.yml").write_text(FILE.read_text().replace("read_only: true", "readonly: true"))
    assert subprocess.run([*judge, tmp_path / "wrong.yml"], capture_output=True).returncode == 1


class Project:
    """docker-compose.yml in a directory with an .env of its own, run by podman-compose."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.web, self.webhook = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self.name = f"agent-test-{directory.name}"
        (directory / "docker-compose.yml").write_text(FILE.read_text())
        lines = {
            **documented_env(),
            "WEBHOOK_APIKEY": "records",
            "WEB_ADDRESS": self.web,
            "WEBHOOK_ADDRESS": self.webhook,
        }
        (directory / ".env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))

    def compose(self, *arguments: str) -> str:
        options = [f"--podman-args={option}" for option in podman.OPTIONS]
        options += [f"--podman-run-args={limit}" for limit in podman.LIMITS]
        ended = subprocess.run(
            [
                TOOLS.path / "bin" / "podman-compose",
                "--in-pod=false",
                f"--project-name={self.name}",
                *options,
                *arguments,
            ],
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def up(self, *services: str) -> None:
        self.compose("up", "--detach", "--no-build", "--no-deps", *services)

    def container(self, service: str) -> str:
        return f"{self.name}_{service}_1"

    def is_healthy(self, service: str) -> bool:
        """Runs the health check: podman leaves that to systemd, which need not be here."""
        return podman.succeeds("healthcheck", "run", self.container(service))

    def state(self, service: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(run_podman("inspect", self.container(service)))[0]["State"]
        return found

    def meet(self, conditions: dict[str, dict[str, str]]) -> None:
        """Waits as `docker compose up` does; this podman-compose with this podman does not."""
        for service, wanted in conditions.items():
            if wanted["condition"] == "service_healthy":
                until(lambda service=service: self.is_healthy(service), seconds=60)
            else:
                until(lambda service=service: self.state(service)["Status"] == "exited", seconds=60)
                assert self.state(service)["ExitCode"] == 0


@pytest.fixture
def project(tmp_path: Path, image: str) -> Iterator[Project]:
    TOOLS.ready()
    for name in (podman.REDIS, podman.POSTGRES):
        podman.stand_in(name)
    run_podman("tag", image, "localhost/serving-agent:latest")
    project = Project(tmp_path)
    yield project
    project.compose("down", "--volumes", "--timeout=1")


@pytest.mark.slow
def test_the_project_comes_up_predicts_and_goes_down(project: Project) -> None:
    project.up("postgres", "redis")
    started = {"postgres", "redis"}
    while waiting := set(AGENTS) - started:
        ready = [name for name in AGENTS if name in waiting and set(AGENTS[name]["depends_on"]) <= started]
        for name in ready:
            project.meet(AGENTS[name]["depends_on"])
        project.up(*ready)
        started |= set(ready)
    for name in set(AGENTS) - {"release"}:
        until(lambda name=name: project.is_healthy(name), seconds=60)

    # As the page's ALLOWED_HOSTS names this machine.
    web, webhook = (f"http://localhost:{at.rpartition(':')[2]}" for at in (project.web, project.webhook))
    assert requests.get(f"http://{project.web}/ready", timeout=30).json()["ready"] is True
    inside = ("exec", "--env=DJANGO_SUPERUSER_PASSWORD=a right password", project.container("web"))
    operator = ("--noinput", "--username=op", "--email=op@example.com")
    run_podman(*inside, "python", "manage.py", "createsuperuser", *operator)
    print(run_podman(*inside, "python", "manage.py", "doctor"))  # ends with 0: it finds no problem
    answer = requests.post(f"{web}/v1/predict", json=IRIS, headers={"apikey": "caller"}, timeout=30)
    assert answer.json()["status"] == "succeeded"
    submitted = requests.post(f"{web}/async/v1/predict", json=IRIS, headers={"apikey": "caller"}, timeout=30).json()
    task = f"{web}/task/{submitted['id']}"
    ended = until(lambda: (found := _get(task)) and found["status"] == "succeeded" and found)
    print(f"\nasync prediction in compose: {ended['running_time']}")

    # The webhook process keeps records and files, in the volume that web serves them from.
    upload = requests.post(
        f"{webhook}/upload",
        files={"file": ("a.txt", b"text")},
        headers={"apikey": "records"},
        timeout=30,
    )
    assert upload.status_code == 200, upload.text
    path = upload.json()["url"].split("/media/")[1]
    assert requests.get(f"{web}/media/{path}", timeout=30).content == b"text"

    began = time.monotonic()
    project.compose("stop")
    print(f"stopped in {time.monotonic() - began:.1f} s")
    assert {name: project.state(name)["ExitCode"] for name in AGENTS} == dict.fromkeys(AGENTS, 0)


def _get(task: str) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(task, headers={"apikey": "caller"}, timeout=30).json()
    return found
