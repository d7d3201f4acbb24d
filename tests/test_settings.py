"""Reading the environment: accepted values, and the error for each refused one."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.environment import Environment, Problem
from tests.helpers.servers import ROOT

Read = Callable[[Environment], Any]


def read_v(text: str, how: Read) -> tuple[Any, list[Problem]]:
    """What `how` makes of the variable V, and the problems it notes."""
    env = Environment({"V": text})
    return how(env), env.problems


KINDS: dict[str, Read] = {
    "integer": lambda env: env.integer("V", default=30),
    "seconds": lambda env: env.seconds("V", default="48h", above=0),
    "delay": lambda env: env.seconds("V", default="2"),
    "boolean": lambda env: env.boolean("V", default=False),
    "choice": lambda env: env.choice("V", default="development", among=("development", "production")),
    "call": lambda env: env.address("V", default="a:1"),
    "listen": lambda env: env.address("V", default="0.0.0.0:8000", to_listen=True),
    "url": lambda env: env.url("V", default="https://a/v1"),
    "service": lambda env: env.url("V", or_address=True),
    "template": lambda env: env.template("V", default="{model}", fields=("model", "domain")),
    "pattern": lambda env: env.text("V", default="x", pattern="[a-z]+", hint="Write letters."),
    "names": lambda env: env.names("V"),
    "text": lambda env: env.text("V", default="x"),
}


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("integer", "7", 7),
        ("integer", " 7 ", 7),
        ("seconds", "90s", 90),
        ("seconds", "1.5m", 90),
        ("seconds", "2 d", 172800),
        ("seconds", "12.5", 12.5),
        ("delay", "0", 0),
        ("boolean", "TRUE", True),
        ("boolean", "on", True),
        ("boolean", "0", False),
        ("choice", "Production", "production"),
        ("call", "model-server_1.svc:80", "model-server_1.svc:80"),
        ("call", "10.0.0.1", "10.0.0.1"),
        ("call", "[::1]:80", "[::1]:80"),
        ("listen", ":9100", ":9100"),
        ("url", "http://localhost:8080/v1", "http://localhost:8080/v1"),
        ("service", "records:12000", "records:12000"),
        ("service", "https://records", "https://records"),
        ("template", "{model}-x.{domain}", "{model}-x.{domain}"),
        ("template", "one.host", "one.host"),
        ("names", "a, b,,c ", ["a", "b", "c"]),
        ("text", " a secret ", "a secret"),
        ("text", "$HOME", "$HOME"),
    ],
)
def test_accepted_values(kind: str, text: str, value: Any) -> None:
    assert read_v(text, KINDS[kind]) == (value, [])


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_variable_counts_as_not_set(kind: str) -> None:
    assert read_v("  ", KINDS[kind]) == (KINDS[kind](Environment({})), [])


@pytest.mark.parametrize(
    ("kind", "text", "number"),
    [
        ("integer", "abc", "E031"),
        ("integer", "1.5", "E031"),
        ("integer", "9" * 5000, "E031"),
        ("integer", "0", "E033"),
        ("integer", "-1", "E033"),
        ("seconds", "abc", "E031"),
        ("seconds", "inf", "E031"),
        ("seconds", "nan", "E031"),
        ("seconds", "1w", "E031"),
        ("seconds", "0", "E033"),
        ("delay", "-2", "E033"),
        ("boolean", "maybe", "E031"),
        ("boolean", "ture", "E031"),
        ("choice", "prod", "E032"),
        ("call", "http://models", "E034"),
        ("call", "models:80/v1", "E034"),
        ("call", "models:99999", "E034"),
        ("call", "models:", "E034"),
        ("call", ":80", "E034"),
        ("call", "a b", "E034"),
        ("call", "user@models:80", "E034"),
        ("call", "mödels:80", "E034"),
        ("listen", "0.0.0.0", "E034"),
        ("listen", "8000", "E034"),
        ("url", "api.example.com/v1", "E034"),
        ("url", "ftp://a/v1", "E034"),
        ("url", "https://", "E034"),
        ("url", "https://a/v1?x=1", "E034"),
        ("url", "https://[::1/v1", "E034"),
        ("service", "records:12000/path", "E034"),
        ("service", "file:///etc", "E034"),
        ("template", "{model}.{name}", "E031"),
        ("template", "{model.__class__}", "E031"),
        ("template", "{model!r}", "E031"),
        ("template", "{model:>99999999}", "E031"),
        ("template", "{}", "E031"),
        ("template", "{model", "E031"),
        ("pattern", "1", "E031"),
    ],
)
def test_a_refused_value_counts_as_not_set(kind: str, text: str, number: str) -> None:
    value, (problem,) = read_v(text, KINDS[kind])
    assert value == KINDS[kind](Environment({}))
    assert problem.number == number
    assert problem.message.startswith("V=")
    assert len(problem.message) < 200
    assert problem.hint


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://u:p@h/x", "postgres://u:p@h:port/x", "postgres://u:p@h", "sqlite:///"]
)
def test_a_wrong_database_is_refused_without_a_word_of_its_address(url: str) -> None:
    config, (problem,) = read_v(url, lambda env: env.database("V", default="sqlite:////tmp/x"))
    assert config["NAME"] == "/tmp/x"
    assert problem.number == "E034"
    assert "u:p" not in "".join(problem)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgres://u:p%40@h:5432/agent?sslmode=require", "agent"),
        ("postgresql://u@h/agent", "agent"),
        ("sqlite:////a/b.sqlite3", "/a/b.sqlite3"),
    ],
)
def test_databases(url: str, name: str) -> None:
    config, problems = read_v(url, lambda env: env.database("V", default="sqlite:////tmp/x"))
    assert (config["NAME"], problems) == (name, [])


def test_a_password_in_an_address_is_not_repeated() -> None:
    _, (problem,) = read_v("https://user:s3cret@host/v1", KINDS["url"])
    assert "s3cret" not in "".join(problem)


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    _, (problem,) = read_v(str(tmp_path / "file"), lambda env: env.directory("V", default=tmp_path))
    assert problem.number == "E035"
    value, problems = read_v(str(tmp_path / "new"), lambda env: env.directory("V", default=tmp_path))
    assert (value, problems) == (str(tmp_path / "new"), [])


def test_the_settings_file_provides_variables_missing_in_the_environment(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("# a comment\n\nA=file\nexport B='quoted'\nC=$HOME # kept\n")
    variables = {"A": "environment"}
    env = Environment(variables)
    env.read_file(file, must_exist=True)
    assert variables == {"A": "environment", "B": "quoted", "C": "$HOME # kept"}
    assert not env.problems


def test_a_line_of_the_settings_file_that_is_none_is_named_and_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("A=1\nSECRET_KEY = s3cret\n")
    env = Environment({})
    env.read_file(file, must_exist=True)
    (problem,) = env.problems
    assert "line 2" in problem.message
    assert "s3cret" not in "".join(problem)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_settings_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / ".env"
    if content is not None:
        file.write_bytes(content)
    env = Environment({})
    env.read_file(file, must_exist=True)
    assert [problem.number for problem in env.problems] == ["E030"]


def test_all_wrong_settings_are_reported_at_once() -> None:
    wrong = {
        "ENVIRONMENT": "prod",
        "DEBUG": "maybe",
        "LOG_LEVEL": "foo",
        "DATABASE_URL": "nonsense",
        "DATABASE_POOL_SIZE": "0",
        "MAX_QUEUE_SIZE": "abc",
        "MAX_REQUEST_BODY": "0",
        "MAX_RESPONSE_BODY": "-1",
        "WORKER_CONCURRENCY": "0",
        "WEB_CONCURRENCY": "many",
        "TASK_RETENTION": "abc",
        "SHUTDOWN_DELAY": "-1",
        "HTTP_SERVER_ADDRESS": "here",
        "KSERVE_ADDRESS": "http://models",
        "KSERVE_REQUEST_TIMEOUT": "x",
        "KSERVE_HOST_TEMPLATE": "{name}",
        "REPLICATE_ADDRESS": "api.replicate.com",
        "ROOT_URLCONF": "os",
    }
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "ENV_FILE": os.devnull, "ALLOW_ANONYMOUS": "true", **wrong},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert not [name for name in wrong if name not in done.stderr], done.stderr
    assert done.stderr.count("HINT") >= len(wrong)


SHOW = """
import json, sys
from django.conf import settings
print(json.dumps({name: getattr(settings, name) for name in sys.argv[1:]}, default=str))
"""


def shown(*names: str, **environment: str) -> dict[str, Any]:
    """Django's settings of these names in a process with this environment alone."""
    return printed(SHOW, *names, DJANGO_SETTINGS_MODULE="config.settings", **environment)


def printed(code: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """The JSON that the code prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "ENV_FILE": os.devnull, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_an_empty_setting_follows_the_others_or_is_a_place_in_the_checkout() -> None:
    expected = {
        "ALLOWED_HOSTS": ["*"],
        "SESSION_COOKIE_SECURE": False,
        "WORKER_SHUTDOWN_TIMEOUT": 777.0,
        "STATIC_ROOT": f"{ROOT}/staticfiles",
        "MEDIA_ROOT": f"{ROOT}/var/media",
        "METRICS_DIR": f"{ROOT}/var/metrics",
        "UPLOAD_BASE_URL": f"http://{socket.gethostname()}:8123",
        "TASK_RECORDER": "predictions.recorder.Nobody",
        "TRACING": False,
    }
    environment = {"TASK_TIMEOUT": "777", "HTTP_SERVER_ADDRESS": "0.0.0.0:8123"}
    assert shown(*expected, **environment) == expected
    assert shown("DATABASES")["DATABASES"]["default"]["NAME"] == f"{ROOT}/var/agent.sqlite3"


def test_production_changes_the_meaning_of_an_empty_setting() -> None:
    expected = {"ALLOWED_HOSTS": [], "SESSION_COOKIE_SECURE": True, "CSRF_COOKIE_SECURE": True}
    assert shown(*expected, ENVIRONMENT="production") == expected


GUNICORN = """
import json
from config import gunicorn
print(json.dumps({name: getattr(gunicorn, name) for name in ("bind", "workers", "graceful_timeout")}))
"""


@pytest.mark.parametrize(
    ("local_redis", "seconds"), [({}, 210), ({"USE_LOCAL_REDIS": "true", "SHUTDOWN_DELAY": "5"}, 215)]
)
def test_web_listens_where_the_settings_say_and_waits_for_predictions_as_long_as_a_task_may_run(
    local_redis: dict[str, str], seconds: int
) -> None:
    environment = {"HTTP_SERVER_ADDRESS": "127.0.0.1:8123", "WEB_CONCURRENCY": "3", "TASK_TIMEOUT": "200"}
    told = printed(GUNICORN, **environment, **local_redis)
    assert told == {"bind": "127.0.0.1:8123", "workers": 3, "graceful_timeout": seconds}


def test_gunicorns_master_imports_nothing_that_gevent_has_to_patch_first() -> None:
    code = "import sys, config.gunicorn; print({name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"asgiref", "redis", "rq", "psycopg", "requests", "rest_framework"} & eval(done.stdout)
