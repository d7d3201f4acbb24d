"""scripts/run starts the whole agent, as real processes."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import redis
import requests

from examples.iris.server import IrisServer
from tests.helpers.checkouts import Run, copy_work_tree, in_a_shell, running, shell_environment
from tests.helpers.servers import procfile
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("checkout") / "agent"
    copy_work_tree(copy)
    return copy


def test_one_command_starts_a_fresh_checkout_and_a_second_start_keeps_its_tasks(checkout: Path) -> None:
    with running(checkout, seconds=600) as run:
        assert (checkout / ".env").stat().st_mode & 0o777 == 0o600
        assert {path.name for path in (checkout / "var").iterdir()} >= {"agent.sqlite3", "redis"}
        assert f"Starting {', '.join(name for name in procfile() if name != 'release')} ..." in run.output()
        password = re.search(r"password (\S{16}) \(shown only now\)", run.output())
        assert password
        assert signs_in(run.url, password[1])
        change_password(checkout, "another password")
        assert signs_in(run.url, "another password")
        assert not signs_in(run.url, password[1])

        (answer,) = in_a_shell(run.printed("/v1/predict"))
        task = json.loads(answer)
        assert task["status"] == "succeeded"
        assert task["outputs"]["predictions"][0]["species"] == "setosa"

        queued = [run.printed(part) for part in ("/async/v1/predict", "/task/", "/cancel/")]
        task_id, seen, canceled = in_a_shell(*queued)
        assert json.loads(seen)["status"] in ("pending", "running")
        assert json.loads(canceled) == {"id": task_id}
        assert requests.get(f"{run.url}/task/{task_id}", timeout=10).json()["status"] == "canceled"

        assert run.end() == 0
        assert run.processes() == {}
        assert "Traceback" not in run.output()

    counters_of_before = list((checkout / "var/metrics").iterdir())
    began = time.monotonic()
    with running(checkout) as again:
        assert counters_of_before
        assert not any(file.exists() for file in counters_of_before)
        print(f"\nup again after {time.monotonic() - began:.1f} s")
        assert "Installing" not in again.output()
        assert "shown only now" not in again.output()
        assert requests.get(f"{again.url}/task/{task['id']}", timeout=10).json() == task
        assert again.end() == 0
        assert again.processes() == {}


def signs_in(url: str, password: str) -> bool:
    """Whether the account that scripts/run made gets into the admin with this password."""
    with requests.Session() as browser:
        browser.get(f"{url}/admin/login/", timeout=30)
        form = {"username": "operator", "password": password, "next": "/admin/"}
        form["csrfmiddlewaretoken"] = browser.cookies["csrftoken"]
        return browser.post(f"{url}/admin/login/", data=form, timeout=30).url == f"{url}/admin/"


def change_password(checkout: Path, password: str) -> None:
    """The README's command, with the password given twice on standard input: it has no terminal."""
    subprocess.run(
        [".venv/bin/python", "manage.py", "changepassword", "operator"],
        cwd=checkout,
        env=shell_environment(),
        input=f"{password}\n{password}\n",
        text=True,
        capture_output=True,
        start_new_session=True,
        check=True,
    )


def test_the_same_command_uses_the_servers_that_the_settings_name(checkout: Path, tmp_path: Path) -> None:
    """DATABASE_URL from .env; REDIS_ADDRESS and ML_PLATFORM from the environment, which wins over .env."""
    address = os.environ["REDIS_ADDRESS"]
    database = tmp_path / "elsewhere.sqlite3"
    (checkout / ".env").write_text(f"ALLOW_ANONYMOUS=true\nML_PLATFORM=local\nDATABASE_URL=sqlite:///{database}\n")
    shutil.rmtree(checkout / "var", ignore_errors=True)
    with IrisServer("127.0.0.1", 0, "iris") as model:
        threading.Thread(target=model.serve_forever, daemon=True).start()
        kserve = {"ML_PLATFORM": "kserve", "KSERVE_ADDRESS": f"127.0.0.1:{model.server_port}"}
        with running(checkout, seconds=600, REDIS_ADDRESS=address, **kserve) as run:
            body = {"model_name": "iris", "inputs": {"instances": [[5.1, 3.5, 1.4, 0.2]]}}
            task = requests.post(f"{run.url}/async/v1/predict", json=body, timeout=30).json()
            until(lambda: asked(run, task)["status"] == "succeeded", seconds=60)
            assert (asked(run, task)["platform"], asked(run, task)["attempt"]) == ("kserve", 1)
            host, _, port = address.rpartition(":")
            with redis.Redis(host=host, port=int(port)) as client:
                assert client.exists(f"rq:job:{task['id']}")
            assert run.end() == 0
        model.shutdown()
    assert database.exists()
    assert not {"agent.sqlite3", "redis"} & {path.name for path in (checkout / "var").iterdir()}
    (checkout / ".env").unlink()


def asked(run: Run, task: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{run.url}/task/{task['id']}", timeout=30).json()
    return found


@pytest.mark.parametrize("name", ["worker", "web", "Redis"])
def test_the_death_of_one_process_is_reported_and_ends_all(checkout: Path, name: str) -> None:
    program = {"worker": "rqworker", "web": "gunicorn", "Redis": "-server"}[name]
    with running(checkout, seconds=600) as run:
        leaders = [pid for pid, command in run.processes().items() if program in command and os.getpgid(pid) == pid]
        os.kill(leaders[0], signal.SIGKILL)
        assert run.process.wait(40) == 1
        assert re.search(rf"{name}\w* ended unexpectedly with exit code -9 \(SIGKILL\)", run.output())
        assert run.processes() == {}


def test_a_checkout_runs_once_and_again_after_a_kill(checkout: Path) -> None:
    with running(checkout, seconds=600) as first:
        second = Run(checkout)
        assert second.process.wait(30) == 1
        assert f"The agent runs here already, as process {first.process.pid}" in second.output()
        first.process.kill()
        with running(checkout) as third:
            assert third.end() == 0
            assert third.processes() == {}


def test_a_port_in_use_is_named_with_the_variable_to_set(checkout: Path) -> None:
    with running(checkout, seconds=600) as run:
        run.end()
        environment = {**run.environment(), "HTTP_SERVER_ADDRESS": os.environ["REDIS_ADDRESS"]}
        refused = subprocess.run(
            ["scripts/run"], cwd=checkout, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    port = os.environ["REDIS_ADDRESS"].rpartition(":")[2]
    assert refused.returncode == 1
    assert re.match(rf"Port {port} is in use: .* set HTTP_SERVER_ADDRESS", refused.stdout)
