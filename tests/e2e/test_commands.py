"""The commands as processes, against a real web and worker: Ctrl-C, pieces as they come, a terminal, a closed pipe."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from predictions.models import Task
from predictions.queue.overview import overview
from tests.helpers.factories import task
from tests.helpers.servers import ROOT, Server, database_url, environment_of
from tests.helpers.slow_platform import SlowPlatform
from tests.helpers.stub import Stub, Visit, answers, chunked, closed_port, hangs, head, streams_until_hung_up
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

GENERATE = "POST /v1/models/llm:predict"


class Manage:
    """`manage.py …` as a process of its own."""

    def __init__(self, *arguments: str, stderr: int = subprocess.PIPE, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": database_url(), "LOG_LEVEL": "INFO", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )

    def line(self) -> str:
        """The next line on stdout, as soon as it is there."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def press_ctrl_c(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def end(self, seconds: float = 60) -> tuple[int, str, str]:
        """Exit code, and the rest of stdout and stderr."""
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, err

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def manage() -> Iterator[Callable[..., Manage]]:
    started: list[Manage] = []

    def start(*arguments: str, **options: Any) -> Manage:
        started.append(Manage(*arguments, **options))
        return started[-1]

    yield start
    for command in started:
        command.kill()


@pytest.fixture
def stub() -> Iterator[Stub]:
    server = Stub()
    yield server
    server.close()


def on_kserve(stub: Stub) -> dict[str, str]:
    return {"ML_PLATFORM": "kserve", "KSERVE_ADDRESS": stub.address}


def status() -> str:
    return str(Task.objects.get().status)


# --- doctor


def test_a_healthy_deployment_has_no_problem(
    serve: Callable[..., Server], slow_platform: SlowPlatform, manage: Callable[..., Manage]
) -> None:
    environment = slow_platform.environment()
    web = serve("web", **environment)
    serve("worker", **environment)
    serve("scheduler", **environment)
    environment |= {"UPLOAD_WEBHOOK_ADDRESS": web.url, "WEBHOOK_SERVER_ADDRESS": web.url}

    def levels() -> dict[str, str]:
        code, out, err = manage("doctor", "--json", **environment).end()
        assert (code, err) == (0, "")
        document = json.loads(out)
        return {finding["part"]: finding["level"] for finding in document["findings"]}

    until(lambda: levels()["workers"] == "ok", seconds=60)
    assert {part: level for part, level in levels().items() if level != "ok"} == {"upload address": "warning"}


def test_doctor_reports_a_broken_deployment(manage: Callable[..., Manage]) -> None:
    nowhere = f"127.0.0.1:{closed_port()}"
    started = time.monotonic()
    code, out, err = manage(
        "doctor",
        DATABASE_URL=f"postgres://agent:sesame@{nowhere}/agent",
        REDIS_ADDRESS=nowhere,
        WEBHOOK_SERVER_ADDRESS=nowhere,
        MEDIA_ROOT="/proc/nowhere",
        ML_PLATFORM="kserve",
        KSERVE_ADDRESS=nowhere,
    ).end()
    print(f"\ntold after {time.monotonic() - started:.1f} s:\n{out}")
    assert (code, err) == (1, "")
    problems = {line[9:26].strip() for line in out.splitlines() if line.startswith("problem")}
    assert problems == {"database", "redis", "queue", "workers", "record service", "storage", "platform"}
    assert "sesame" not in out


def test_doctor_reports_a_hanging_platform_in_time(stub: Stub, manage: Callable[..., Manage]) -> None:
    stub.script("GET /v1/models/llm", hangs)
    code, out, _ = manage("doctor", "--model", "llm", "--json", **on_kserve(stub)).end()
    (finding,) = [finding for finding in json.loads(out)["findings"] if finding["part"] == "platform"]
    assert (code, finding["level"]) == (1, "problem")
    assert "did not answer in time" in finding["message"]


# --- predict


def test_a_queued_prediction_is_waited_for_while_a_worker_runs_it(
    serve: Callable[..., Server], slow_platform: SlowPlatform, manage: Callable[..., Manage]
) -> None:
    serve("worker", **slow_platform.environment())
    command = manage(
        "predict", "m", "--inputs", '{"n": 7, "sleep": 1}', "--async", "--wait", **slow_platform.environment()
    )
    code, out, err = command.end()
    assert (code, json.loads(out)) == (0, {"n": 7})
    assert [line.split(":")[0] for line in err.splitlines()][0] == "pending"
    assert f"task {Task.objects.get().pk}" in err


def test_each_piece_is_printed_before_the_next_one_comes(stub: Stub, manage: Callable[..., Manage]) -> None:
    """The model sends a piece only after the one before was read from the command's stdout."""
    read = threading.Semaphore(0)

    def one_by_one(visit: Visit) -> None:
        visit.read_body()
        visit.send(head(200, {"Transfer-Encoding": "chunked"}))
        for number in range(20):
            visit.send(chunked(json.dumps({"id": number, "data": f"piece {number}\n"}).encode() + b"\n"))
            assert read.acquire(timeout=20)
        visit.send(b"0\r\n\r\n")

    stub.script(GENERATE, one_by_one)
    command = manage("predict", "llm", "--inputs", "{}", "--stream", **on_kserve(stub))
    for number in range(20):
        assert command.line() == f"piece {number}\n"
        read.release()
    assert command.end()[0] == 0
    assert status() == "succeeded"


@pytest.mark.parametrize("how", [[], ["--stream"]])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_prediction_is_canceled_here_and_there(
    stub: Stub, manage: Callable[..., Manage], how: list[str], number: int
) -> None:
    stub.script(GENERATE, streams_until_hung_up(b'{"id": 0, "data": "a"}\n') if how else hangs)
    command = manage("predict", "llm", "--inputs", "{}", *how, **on_kserve(stub))
    until(lambda: stub.count(GENERATE))
    command.process.send_signal(number)
    code, _, err = command.end()
    assert (code, status()) == (130, "canceled")
    assert stub.hung_up.wait(20)
    assert "Traceback" not in err
    assert "The task was canceled." in err


def test_a_closed_terminal_is_nothing_to_a_command_under_nohup(stub: Stub, manage: Callable[..., Manage]) -> None:
    def goes_on(visit: Visit) -> None:
        assert visit.stub.gate.wait(20)
        answers({"done": True})(visit)

    stub.script(GENERATE, goes_on)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which a child inherits
    command = manage("predict", "llm", "--inputs", "{}", **on_kserve(stub))
    signal.signal(signal.SIGHUP, before)
    until(lambda: stub.count(GENERATE))
    command.process.send_signal(signal.SIGHUP)
    time.sleep(1)
    stub.gate.set()
    code, out, _ = command.end()
    assert (code, json.loads(out), status()) == (0, {"done": True}, "succeeded")


def test_ctrl_c_while_a_worker_runs_it_ends_the_prediction_there(
    serve: Callable[..., Server], stub: Stub, manage: Callable[..., Manage]
) -> None:
    stub.script(GENERATE, hangs)
    serve("worker", **on_kserve(stub))
    command = manage("predict", "llm", "--inputs", "{}", "--async", "--wait", **on_kserve(stub))
    until(lambda: stub.count(GENERATE), seconds=60)
    command.press_ctrl_c()
    assert command.end()[0] == 130
    assert status() == "canceled"
    assert stub.hung_up.wait(20)


# --- tasks and queue


def test_new_tasks_are_followed_as_they_come_and_go(
    serve: Callable[..., Server], slow_platform: SlowPlatform, manage: Callable[..., Manage]
) -> None:
    environment = slow_platform.environment()
    web = serve("web", **environment)
    serve("worker", **environment)
    command = manage("tasks", "follow", "--json", **environment)
    body = {"model_name": "m", "inputs": {"sleep": 2}}

    def submit_until_seen() -> None:
        """The command takes a while to start, and does not report earlier tasks."""
        while not seen.is_set():
            requests.post(f"{web.url}/async/v1/predict", json=body, timeout=30)
            seen.wait(3)

    seen = threading.Event()
    submitter = threading.Thread(target=submit_until_seen, daemon=True)
    submitter.start()
    first = json.loads(command.line())
    seen.set()
    submitter.join()
    told = [first]
    while told[-1]["id"] != first["id"] or told[-1]["status"] != "succeeded":
        told.append(json.loads(command.line()))
    mine = [row["status"] for row in told if row["id"] == first["id"]]
    assert mine in (["pending", "running", "succeeded"], ["running", "succeeded"])
    command.press_ctrl_c()
    code, _, err = command.end()
    assert (code, err) == (130, "")


def test_drain_waits_for_the_workers(
    serve: Callable[..., Server], slow_platform: SlowPlatform, manage: Callable[..., Manage]
) -> None:
    environment = {**slow_platform.environment(), "WORKER_CONCURRENCY": "2"}
    web = serve("web", **environment)
    serve("worker", **environment)
    body = {"model_name": "m", "inputs": {"sleep": 2}}
    for _ in range(6):
        requests.post(f"{web.url}/async/v1/predict", json=body, timeout=30)
    code, out, err = manage("queue", "drain", "--progress", "--json", **environment).end(90)
    assert (code, json.loads(out)["waiting"], json.loads(out)["running"]) == (0, 0, 0)
    assert {row.status for row in Task.objects.all()} == {"succeeded"}
    assert " wait, " in err


def test_interrupted_following_leaves_the_task_alone(manage: Callable[..., Manage]) -> None:
    running = task("running", 5)
    command = manage("tasks", "follow", running.pk)
    assert running.pk in command.line()
    command.press_ctrl_c()
    code, _, err = command.end()
    assert (code, err, status()) == (130, "", "running")


# --- the commands in a shell


def test_exit_codes(manage: Callable[..., Manage]) -> None:
    assert manage("tasks", "list").end()[0] == 0
    assert manage("tasks", "show", "nobody").end()[0] == 1
    assert manage("tasks", "list", "--status", "lost").end()[0] == 2
    code, out, err = manage("tasks", "list", "--status", "lost", "--json").end()
    assert (code, json.loads(out)["code"]) == (2, "invalid_request")
    assert err.startswith("usage: manage.py tasks list ")
    assert manage("predict", "m", "--inputs", "{").end()[0] == 2
    assert manage("queue", "size", REDIS_ADDRESS=f"127.0.0.1:{closed_port()}").end()[0] == 1


def test_logs_are_on_stderr_and_verbose_shows_all_of_them(manage: Callable[..., Manage]) -> None:
    for asked, is_there in (([], False), (["-v", "2"], True)):
        code, out, err = manage("predict", "m", "--inputs", '{"answer": 7}', *asked).end()
        assert (code, out) == (0, "7\n")
        assert ("predictions.lifecycle: task succeeded" in err) is is_there


def test_a_worker_and_a_scheduler_end_with_0_after_ctrl_c(manage: Callable[..., Manage]) -> None:
    worker, scheduler = manage("rqworker"), manage("scheduler")
    assert "jobs for" in scheduler.line()
    until(lambda: worker.process.pid in {known.pid for known in overview().workers}, seconds=60)
    for command in (worker, scheduler):
        command.press_ctrl_c()
        code, _, err = command.end()
        assert (code, "Traceback" in err) == (0, False), err


def test_the_scripts_of_the_operating_page_work(
    serve: Callable[..., Server], slow_platform: SlowPlatform, tmp_path: Path
) -> None:
    """Submit many and wait for all; an alarm, because no file can be stored; what failed today."""
    assert shutil.which("jq"), "jq is not here (Debian: apt install jq)"
    page = (ROOT / "docs/operating.md").read_text().partition("## In scripts")[2]
    (script,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    (tmp_path / "manage.py").symlink_to(ROOT / "manage.py")
    (tmp_path / "inputs").mkdir()
    for name, inputs in {
        "good": {"n": 1},
        "bad": {"n": 2, "status": "400 Bad Request", "body": '{"error": "send four"}'},
    }.items():
        (tmp_path / f"inputs/{name}.json").write_text(json.dumps(inputs))
    mail = tmp_path / "bin/mail"
    mail.parent.mkdir()
    mail.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/to; cat > {tmp_path}/mail\n')
    mail.chmod(0o755)
    serve("worker", **slow_platform.environment())
    environment = environment_of(**slow_platform.environment(), MEDIA_ROOT="/proc/nowhere", LOG_LEVEL="ERROR")
    ended = subprocess.run(
        ["bash", "-c", script.replace("/tmp/", f"{tmp_path}/")],
        cwd=tmp_path,
        env={**environment, "PATH": f"{mail.parent}:{environment['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stderr == ""
    by_status = {row.status: row.pk for row in Task.objects.all()}
    assert sorted((tmp_path / "ids").read_text().split()) == sorted(by_status.values())
    assert by_status["succeeded"] in ended.stdout
    assert ended.stdout.splitlines()[-1] == f"{by_status['failed']}\tsend four"
    assert "ops@example.com" in (tmp_path / "to").read_text()
    assert json.loads((tmp_path / "mail").read_text())["level"] == "problem"


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    for number in range(300):
        task("failed", number, error_info="x" * 1000)
    line = f"{sys.executable} manage.py tasks list --limit 300 --json | head -n 1"
    environment = {**os.environ, "DATABASE_URL": database_url()}
    ended = subprocess.run(line, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("{\n", "")


def test_on_a_terminal_progress_is_one_line_that_is_taken_away_again(manage: Callable[..., Manage]) -> None:
    for _ in range(200):
        task("running", 400)
    here, there = pty.openpty()
    command = manage("init_check", stderr=there)
    code, out, _ = command.end()
    os.close(there)
    shown = b""
    try:
        while piece := os.read(here, 65536):
            shown += piece
    except OSError:  # a terminal reports that the last writer has closed it
        pass
    os.close(here)
    assert (code, out) == (0, "Init check: 200 failed.\n")
    assert shown.startswith(b"\r\x1b[K0 of 200 ")
    assert shown.endswith(b"\r\x1b[K")
    assert b"\n" not in shown
