"""What scripts/run starts: Redis, the release steps and every process of the Procfile; it ends them all together."""

# ruff: noqa: E402

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C while this is being imported ends it without a traceback

import argparse
import fcntl
import json
import multiprocessing
import os
import queue
import secrets
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from errno import EACCES, EADDRINUSE
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import FrameType
from typing import Any

import environ
from honcho.environ import parse_procfile
from honcho.manager import Manager
from honcho.printer import Printer
from honcho.process import Process

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from predictions.queue.embedded import EmbeddedRedis, EmbeddedRedisError

VAR = ROOT / "var"
WEBHOOK_BIND = "127.0.0.1:12000"
PATIENCE_SECONDS = 10
"""How long the processes have for each step of ending: finish what runs, hand it back, be killed."""
BOOT_PATIENCE_SECONDS = 3
"""The same before the first answer of /ready: there is nothing yet to finish."""
SLOW_START_SECONDS = 30
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

SETTINGS = """\
# The settings of this checkout, written once by scripts/run; change what you like. The environment wins over this
# file, and .env.example lists every setting.

# Signs what the admin hands to browsers. Keep it to yourself.
SECRET_KEY={secret_key}

# Whoever reaches the port may call the API. Before others can reach it, set API_KEYS=key1,key2 instead.
ALLOW_ANONYMOUS=true

# Reachable from this machine only, because callers need no key. 0.0.0.0:8000 is reachable from everywhere.
HTTP_SERVER_ADDRESS=127.0.0.1:8000

# Runs the example model in examples/iris. Others: kserve, k8s, replicate, runpod.
ML_PLATFORM=local
"""

CREATE_OPERATOR = """
import os
from django.contrib.auth import get_user_model
users = get_user_model().objects
superusers = users.filter(is_superuser=True, is_active=True).order_by("pk")
known = superusers.first() or users.filter(username="operator").first()
if known is None:
    users.create_superuser("operator", password=os.environ["OPERATOR_PASSWORD"])
print("known:", known.get_username() if known else "")
"""

WELCOME = """
The serving agent is up.

  API    {url}
  Admin  {url}/admin/   (sign in as {operator}{password})

Try it in another terminal.{hint} A prediction that you wait for:

  curl -sS {url}/v1/predict{headers} -d {inputs}

One that is queued and takes a minute, then what became of it, then its cancellation:

  TASK=$(curl -sS {url}/async/v1/predict{headers} -d {slow_inputs} | cut -d '"' -f 4); echo "$TASK"
  curl -sS {url}/task/$TASK{key}
  curl -sS -X POST {url}/cancel/$TASK{key}

Ctrl-C ends everything.

"""


class Refused(Exception):
    """The agent cannot be started. The message is a sentence that says what to do."""


class Terminal:
    """Standard output without a buffer, so no signal finds it half written; a closed one is no reason to stop."""

    def write(self, text: str) -> None:
        left = text.encode(errors="replace")
        with suppress(OSError):
            while left:
                left = left[os.write(1, left) :]

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return os.isatty(1)


terminal = Terminal()


def say(sentence: str) -> None:
    terminal.write(f"{sentence}\n")


# --- Settings and what must be free


def read_settings() -> None:
    """Puts the settings file, made if there is none, below the environment."""
    chosen = os.environ.get("ENV_FILE")
    path = Path(chosen) if chosen else ROOT / ".env"
    if not chosen and not path.exists() and os.environ.get("ENVIRONMENT") != "production":
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:
            file.write(SETTINGS.format(secret_key=secrets.token_urlsafe(50)))
        say("Wrote .env: an open API on this machine only, with the example model. Change it there.")
    environ.Env.read_env(path)
    os.environ["WEBHOOK_BIND"] = os.environ.get("WEBHOOK_BIND") or WEBHOOK_BIND
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    os.environ["PYTHONUNBUFFERED"] = "1"


@dataclass(frozen=True, slots=True)
class Address:
    """What a process listens on, and the variable that says so."""

    variable: str
    host: str
    port: int

    @classmethod
    def of(cls, variable: str, default: str) -> "Address":
        text = os.environ.get(variable) or default
        host, colon, port = text.strip().rpartition(":")
        if not (colon and port.isdecimal() and 0 < int(port) < 65536):
            raise Refused(f"{variable}={text} is not an address: write host:port, such as {default}.")
        return cls(variable, host.strip("[]") or "0.0.0.0", int(port))

    @property
    def reachable_host(self) -> str:
        """Where this machine reaches it."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)

    @property
    def url(self) -> str:
        host = f"[{self.reachable_host}]" if ":" in self.reachable_host else self.reachable_host
        return f"http://{host}:{self.port}"

    def try_out(self) -> socket.socket:
        """A socket that listens there. Raises Refused."""
        listener = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.host, self.port))
            listener.listen(1)
        except OSError as error:
            listener.close()
            raise Refused(self._complaint(error)) from error
        return listener

    def _complaint(self, error: OSError) -> str:
        if error.errno == EADDRINUSE:
            return (
                f"Port {self.port} is in use: end the program that uses it, or set {self.variable} to another address, "
                f"such as {self.host}:{self.port % 65535 + 1}, in .env or in the environment."
            )
        if error.errno == EACCES:
            return f"Port {self.port} is not for this user: set {self.variable} to a port above 1023."
        return f"{self.variable}={self.host}:{self.port} cannot be listened on: {error.strerror or error}."


def web_address() -> Address:
    return Address.of("BIND" if os.environ.get("BIND") else "HTTP_SERVER_ADDRESS", "0.0.0.0:8000")


def check_ports() -> None:
    with ExitStack() as held:
        for address in (web_address(), Address.of("WEBHOOK_BIND", WEBHOOK_BIND)):
            held.enter_context(address.try_out())


@contextmanager
def only_one() -> Iterator[None]:
    """Holds var/run.lock. What an agent that was killed left behind holds it too, for the seconds it takes to end."""
    VAR.mkdir(exist_ok=True)
    with (VAR / "run.lock").open("a+") as lock:
        deadline = time.monotonic() + 3 * PATIENCE_SECONDS
        told = False
        while not _claimed(lock.fileno()):
            lock.seek(0)
            owner = lock.read().strip()
            if not (_is_alive(owner) or told):
                say("An agent was killed here; waiting for what it left to end ...")
                told = True
            if _is_alive(owner) or time.monotonic() > deadline:
                raise Refused(f"The agent runs here already, as process {owner}: end that one first (Ctrl-C, or kill).")
            time.sleep(0.2)
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def _claimed(lock: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _is_alive(pid: str) -> bool:
    if not pid:
        return True  # it holds the lock and is about to write its number
    with suppress(FileNotFoundError, ProcessLookupError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"  # killed, and not yet noticed by its parent
    return False


# --- What happens before the processes start


@contextmanager
def redis_if_needed() -> Iterator[EmbeddedRedis | None]:
    """The embedded server while the block runs, or None where the settings name one."""
    if os.environ.get("REDIS_ADDRESS") or os.environ.get("REDIS_SENTINELS"):
        yield None
        return
    redis = EmbeddedRedis(VAR / "redis")
    try:
        say(f"Started a Redis for this checkout on {redis.start()} (data in var/redis).")
        yield redis
    finally:
        redis.stop()


def run_to_end(command: list[str], **more: str) -> str:
    """What the command prints. Raises Refused, with all of it, if it fails; interrupted, it leaves nothing behind."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **more},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate()
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise
    if process.returncode:
        raise Refused(f"{output.rstrip()}\n\nThe agent was not started: {_first_words(command)} failed, see above.")
    return output


def _first_words(command: list[str]) -> str:
    return " ".join(command[-1].split()[:3]) if command[0] == "sh" else " ".join(command[1:3])


def prepare_release(commands: str) -> None:
    for command in commands.split("&&"):
        say(f"Running {command.strip()} ...")
        run_to_end(["sh", "-c", command.strip()])


def create_operator() -> tuple[str, str]:
    """The operator's name, and the password if the account was created just now."""
    password = secrets.token_urlsafe(12)
    shell = [sys.executable, "manage.py", "shell", "--verbosity", "0", "--command", CREATE_OPERATOR]
    known = run_to_end(shell, OPERATOR_PASSWORD=password).rpartition("known:")[2].strip()
    return (known, "") if known else ("operator", password)


def welcome(address: Address, operator: str, password: str) -> str:
    """How to call the agent as it is configured now."""
    inputs: dict[str, Any] = {"instances": [[5.1, 3.5, 1.4, 0.2]]}
    model, hint = "iris", ""
    has_iris = os.environ.get("LOCAL_PREDICTOR", "examples.iris:predict") == "examples.iris:predict"
    if os.environ.get("ML_PLATFORM", "local") != "local" or not has_iris:
        model, hint = os.environ.get("MODEL_NAME") or "iris", " Put your model's name and inputs in."
    key = " -H 'Authorization: Bearer YOUR_API_KEY'" if os.environ.get("API_KEYS") else ""

    def body(**more: Any) -> str:
        return shlex.quote(json.dumps({"model_name": model, "inputs": {**inputs, **more}}))

    return WELCOME.format(
        url=address.url,
        operator=operator,
        password=f", password {password} : it is shown only now" if password else "",
        hint=hint,
        key=key,
        headers=f"{key} -H 'Content-Type: application/json'",
        inputs=body(),
        slow_inputs=body(delay_seconds=60),
    )


# --- The processes


class Watched(Process):
    """honcho's process, which also ends what it runs when this script is killed."""

    def run(self, events: Any = None, ignore_signals: bool = False) -> None:
        threading.Thread(target=self._outlive, args=(os.getppid(),), daemon=True).start()
        super().run(events, ignore_signals)

    def _outlive(self, parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(1)
        for step in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            number: int = step
            deadline = time.monotonic() + PATIENCE_SECONDS
            while signal_group(self._child.pid, number) and time.monotonic() < deadline:
                number = 0  # only asks whether any of them is left
                self._child.poll()
                time.sleep(0.1)
        os._exit(1)


class Readiness(threading.Thread):
    """Asks `GET /ready` until the answer is 200."""

    def __init__(self, address: Address) -> None:
        super().__init__(daemon=True)
        self.address = address
        self.reached = threading.Event()
        self.complaint = "it does not answer yet"
        hosts = [host.strip() for host in os.environ.get("ALLOWED_HOSTS", "").split(",")]
        self._headers = {"Host": hosts[0].lstrip(".")} if hosts[0].strip("*") else {}

    def run(self) -> None:
        while not self.reached.is_set():
            with suppress(OSError, HTTPException, ValueError):
                self._ask()
            time.sleep(0.1)

    def _ask(self) -> None:
        connection = HTTPConnection(self.address.reachable_host, self.address.port, timeout=5)
        try:
            connection.request("GET", "/ready", headers=self._headers)
            answer = connection.getresponse()
            if answer.status == 200:
                self.reached.set()
            else:
                self.complaint = f"/ready answers {answer.status}"
                self.complaint = json.load(answer)["error"]
        finally:
            connection.close()


class Agent(Manager):
    """honcho's manager with patience for what runs, an eye on Redis, and signals that only leave a note."""

    def __init__(self, redis: EmbeddedRedis | None, readiness: Readiness, greeting: str) -> None:
        super().__init__(Printer(terminal, time_format=""))  # the lines carry their own time
        self._process_ctor = Watched
        self.fault = ""
        self.was_ready = False
        self._redis = redis
        self._readiness = readiness
        self._greeting = greeting
        self._complain_at = time.monotonic() + SLOW_START_SECONDS
        self._asked = 0
        self._step = 0
        self._next_step_at = 0.0
        self._lost: list[int] = []

    def loop(self) -> None:
        """Runs until everything has ended: after a signal, or because one process did, which is then the `fault`."""
        catch_signals(self._ask)
        self._start()
        self._readiness.start()
        while not self._all_stopped():
            self._next_event()
            self._look_at_redis()
            self._greet()
            self._end_if_asked()
        for group in self._lost:
            signal_group(group, signal.SIGKILL)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked += 1

    def _next_event(self) -> None:
        gone = [name for name, process in self._processes.items() if not process["process"].is_alive()]
        try:
            event = self.events.get(timeout=0.1)
        except queue.Empty:
            for name in gone:  # with nothing left to say: it was killed itself, and its program lives on
                self._note_end(name, self._processes[name]["process"].exitcode, lost=True)
            return
        if event.type == "line":
            self._printer.write(event)
        elif event.type == "start":
            self._processes[event.name]["pid"] = event.data["pid"]
        elif event.type == "stop":
            self._note_end(event.name, event.data["returncode"])

    def _note_end(self, name: str, exit_code: int, *, lost: bool = False) -> None:
        process = self._processes[name]
        if process.get("returncode") is not None:
            return
        process["returncode"] = exit_code
        if lost and "pid" in process:
            self._lost.append(process["pid"])
            signal_group(process["pid"], signal.SIGTERM)
        self._note_fault(name, exit_code)

    def _look_at_redis(self) -> None:
        exit_code = self._redis.exit_code() if self._redis else None
        if exit_code is not None:
            self._note_fault("Redis", exit_code)

    def _note_fault(self, name: str, exit_code: int) -> None:
        if not self._step and not self._asked:
            self._asked = 1
            self.fault = f"{name} ended unexpectedly with exit code {exit_code}{_signal_name(exit_code)}"
            say(f"{self.fault}.")

    def _greet(self) -> None:
        if self._step or self.was_ready:
            return
        if self._readiness.reached.is_set():
            self.was_ready = True
            terminal.write(self._greeting)
        elif time.monotonic() > self._complain_at:
            say(f"The agent is not ready after {SLOW_START_SECONDS} s: {self._readiness.complaint}. Waiting for it.")
            self._complain_at = float("inf")

    def _end_if_asked(self) -> None:
        """Each Ctrl-C goes one step on, and so does time: finish what runs, hand it back, be killed."""
        if not self._asked or not all("pid" in p or "returncode" in p for p in self._processes.values()):
            return
        if self._step and time.monotonic() >= self._next_step_at:
            self._asked = self._step + 1
        while self._step < min(self._asked, 3):
            self._next_step_at = time.monotonic() + (PATIENCE_SECONDS if self.was_ready else BOOT_PATIENCE_SECONDS)
            self._step += 1
            self._take_step()

    def _take_step(self) -> None:
        running = {name: process for name, process in self._processes.items() if process.get("returncode") is None}
        sentence, number = {
            1: (f"Ending. What runs may take {PATIENCE_SECONDS} s to finish; Ctrl-C again hurries.", signal.SIGTERM),
            2: (f"Handing back what still runs: {', '.join(running)}.", signal.SIGINT),
            3: (f"Killing what did not end: {', '.join(running)}.", signal.SIGKILL),
        }[self._step]
        say(sentence)
        for process in running.values():
            if number == signal.SIGINT:  # gunicorn itself tells its workers; told twice, they would complain
                with suppress(ProcessLookupError):
                    os.kill(process["pid"], number)
            else:
                signal_group(process["pid"], number)
            if number == signal.SIGKILL:
                process["process"].kill()


def as_one_process(command: str) -> str:
    """Without a shell above it, which would hide signals and exit codes; a line of several commands needs its shell."""
    return command if set(";&|") & set(command) else f"exec env {command}"


def signal_group(group: int, number: int) -> bool:
    """Whether there was anyone left to signal."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False


def _signal_name(exit_code: int) -> str:
    """` (SIGKILL)` for -9, and for the 137 that a shell makes of it."""
    number = -exit_code if exit_code < 0 else exit_code - 128
    return f" ({signal.Signals(number).name})" if number in set(signal.Signals) else ""


# --- From start to end


def run() -> int:
    read_settings()
    check_ports()
    commands = dict(parse_procfile((ROOT / "Procfile").read_text()).processes)
    with redis_if_needed() as redis:
        prepare_release(commands.pop("release"))
        operator, password = create_operator()
        address = web_address()
        agent = Agent(redis, Readiness(address), welcome(address, operator, password))
        for name, command in commands.items():
            agent.add_process(name, as_one_process(command))
        say(f"Starting {', '.join(commands)} ...")
        agent.loop()
        ignore_signals()
    if password and not agent.was_ready:
        say(f"The admin's account was made: {operator}, password {password} : it is shown only now.")
    say(f"Everything was ended because {agent.fault}." if agent.fault else "Everything has ended.")
    return 1 if agent.fault else 0


def catch_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    """Also where they were ignored, as a shell does for what it starts in the background; but `nohup` is respected."""
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _interrupt(number: int, frame: FrameType | None) -> None:
    ignore_signals()
    raise KeyboardInterrupt


def main() -> int:
    argparse.ArgumentParser(prog="scripts/run", description=__doc__).parse_args()
    os.chdir(ROOT)
    multiprocessing.set_start_method("fork")  # so that what a killed agent leaves behind keeps its lock
    catch_signals(_interrupt)
    try:
        with only_one():
            return run()
    except (Refused, EmbeddedRedisError) as error:
        say(str(error))
        return 1
    except OSError as error:
        say(f"The agent was not started: {error}.")
        return 1
    except KeyboardInterrupt:
        say("Ended before it was up.")
        return 0


if __name__ == "__main__":
    sys.exit(main())
