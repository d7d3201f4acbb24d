"""Every process type, started for real with settings that it must refuse."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.ports import free_port
from tests.helpers.servers import ROOT, procfile

pytestmark = pytest.mark.slow

COMMANDS = procfile() | {
    name: f"python manage.py {name}" for name in ("migrate", "init_check", "sweep_archive", "purge_tasks")
}
PRODUCTION = {
    "ENVIRONMENT": "production",
    "SECRET_KEY": "8Zc1vQp0Jx5mWn3Rk7Ty2Lb9Hs4Gd6FfAaEeUuIiOoPp-test-key",
    "ALLOWED_HOSTS": "agent.example.com",
    "API_KEYS": "key",
}


def start(command: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs it with this environment alone, until it ends by itself."""
    return subprocess.run(
        ["sh", "-c", command],
        cwd=ROOT,
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "ENV_FILE": os.devnull,
            "DATABASE_URL": f"sqlite:///{directory / 'db.sqlite3'}",
            "STATIC_ROOT": str(directory / "static"),
            "REDIS_ADDRESS": os.environ["REDIS_ADDRESS"],
            "BIND": f"127.0.0.1:{free_port()}",
            "WEBHOOK_BIND": f"127.0.0.1:{free_port()}",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("process", COMMANDS)
def test_production_does_not_start_on_defaults(process: str, tmp_path: Path) -> None:
    done = start(COMMANDS[process], tmp_path, ENVIRONMENT="production", DEBUG="true")
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    for variable in ("SECRET_KEY", "ALLOWED_HOSTS", "DEBUG"):
        assert f"{variable} is" in said
    assert said.count("HINT: Set") >= 3
    assert not (tmp_path / "db.sqlite3").exists()


@pytest.mark.parametrize("process", COMMANDS)
@pytest.mark.parametrize("name", ["SECRET_KEY", "ALLOWED_HOSTS", "API_KEYS", "DATABASE_URL"])
def test_production_needs_each_of_them(process: str, name: str, tmp_path: Path) -> None:
    done = start(COMMANDS[process], tmp_path, **{**PRODUCTION, name: ""})
    said = done.stdout + done.stderr
    assert (done.returncode != 0, "Traceback" in said) == (True, False), said
    assert name in said


@pytest.mark.parametrize("process", COMMANDS)
def test_wrong_settings_are_reported_and_nothing_starts(process: str, tmp_path: Path) -> None:
    wrong = {"MAX_QUEUE_SIZE": "abc", "TASK_TIMEOUT": "0", "HTTP_SERVER_ADDRESS": "nowhere", "ENVIRONMENT": "prod"}
    done = start(COMMANDS[process], tmp_path, **wrong, ALLOW_ANONYMOUS="true")
    said = done.stdout + done.stderr
    assert (done.returncode != 0, "Traceback" in said) == (True, False), said
    assert not [name for name in wrong if said.count(f"{name}=") != 1], said


def test_a_process_that_is_still_loading_ends_when_another_one_has_told_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(
        f"""
import os, time
try:
    os.mkdir({str(tmp_path / "first")!r})
except FileExistsError:
    time.sleep(60)  # its SIGTERM comes meanwhile
from config.wsgi import application
"""
    )
    command = f"gunicorn -c config/gunicorn.py --pythonpath {tmp_path} late:application"
    done = start(command, tmp_path, **{**PRODUCTION, "SECRET_KEY": ""}, WEB_CONCURRENCY="2")
    said = done.stdout + done.stderr
    assert (done.returncode != 0, "Traceback" in said) == (True, False), said
    assert said.count("SECRET_KEY is") == 1, said


def test_production_with_all_of_them_begins(tmp_path: Path) -> None:
    done = start(COMMANDS["release"], tmp_path, **PRODUCTION)
    assert done.returncode == 0, done.stderr


def test_release_migrates_checks_and_collects_the_admins_files(tmp_path: Path) -> None:
    done = start(COMMANDS["release"], tmp_path, ALLOW_ANONYMOUS="true")
    assert "Init check: nothing to do." in done.stdout
    assert (tmp_path / "static/admin/css/base.css").is_file()
    with sqlite3.connect(tmp_path / "db.sqlite3") as database:
        assert database.execute("SELECT count(*) FROM predictions_task").fetchone() == (0,)
