"""Starts the contestants as their users do (web processes and workers of the agent and its peers), and the platform."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.request import Request, urlopen

from bench.environment import PEERS, PYTHON, ROOT, Checkout
from bench.load import NUMBER, Load
from bench.processes import Process, wait_for
from bench.stores import Database, Stores
from tests.helpers.ports import free_port

WEB_PROCESSES = 2
START_SECONDS = 60.0
WEBS = {"agent": "", "fastapi": "bench.peers.fastapi_proxy:app", "floor": "bench.peers.floor:app"}
"""Names of web servers for sync predictions → the ASGI application; the agent has none."""
AGENT_PROCESSES = ("web", "worker", "scheduler")
QUEUE_PEERS = ("celery", "dramatiq", "rq")
RQ_PROCESSES = 8


@dataclass(frozen=True)
class Web:
    """Web processes that answer on a port of the loopback."""

    process: Process
    port: int


class Platform:
    """bench.platform as a process."""

    def __init__(self, process: Process, port: int) -> None:
        self.process, self.port = process, port

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def forget(self) -> None:
        """Makes it forget the requests until now."""
        urlopen(Request(f"http://{self.address}/forget", method="POST"), timeout=10).read()

    def seen(self) -> dict[Any, float]:
        """Number of the request → time of its first byte."""
        return dict(json.load(urlopen(f"http://{self.address}/seen", timeout=10)))

    def jobs(self) -> list[dict[str, Any]]:
        """The jobs that were polled."""
        return list(json.load(urlopen(f"http://{self.address}/jobs", timeout=10)))


@contextmanager
def platform() -> Iterator[Platform]:
    port = free_port()
    with Process([str(PYTHON), "-m", "bench.platform", str(port)], {}) as process:
        _wait_until_it_answers(process, port, "/seen")
        yield Platform(process, port)


class Contestants:
    """Starts any contestant on given stores and platform."""

    def __init__(self, stores: Stores, platform: Platform, checkout: Checkout | None = None) -> None:
        """`checkout`: the agent's code; by default that of this benchmark."""
        self.stores, self.platform, self.checkout = stores, platform, checkout or Checkout()

    def database(self, name: str) -> Database:
        return self.stores.agent if name == "agent" else self.stores.peers

    @contextmanager
    def web(self, name: str, **more: str) -> Iterator[Web]:
        """One of WEBS, with WEB_PROCESSES processes; `more` adds to the agent's environment."""
        port = free_port()
        if name == "agent":
            own = {"BIND": f"127.0.0.1:{port}", "WEB_CONCURRENCY": str(WEB_PROCESSES)}
            process = self._agent("web", {**own, **more})
        else:
            command = ["uvicorn", WEBS[name], "--port", str(port), "--workers", str(WEB_PROCESSES)]
            process = self._peer(*command, "--log-level", "warning", "--no-access-log", "--backlog", "4096")
        with process:
            _wait_until_it_answers(process, port, "/live")
            yield Web(process, port)

    @contextmanager
    def agent(self) -> Iterator[dict[str, Process]]:
        """Process type → process: web, worker and scheduler, each with its default size."""
        port = free_port()
        more = {"BIND": f"127.0.0.1:{port}", "ENABLE_PERIODIC_CHECK": "true"}
        with ExitStack() as stack:
            processes = {name: stack.enter_context(self._agent(name, more)) for name in AGENT_PROCESSES}
            _wait_until_it_answers(processes["web"], port, "/live")
            yield processes

    @contextmanager
    def worker(self, name: str, slots: int, **more: str) -> Iterator[Process]:
        """`agent`, or one of QUEUE_PEERS; `slots` threads in one process, but RQ_PROCESSES processes of RQ.

        `more` adds to the agent's environment.
        """
        if name == "agent":
            process = self._agent("worker", {"WORKER_CONCURRENCY": str(slots), **more})
        elif name == "celery":
            quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "warning"]
            command = ["celery", "-A", "bench.peers.celery_tasks", "worker", "-P", "threads", "-c", str(slots)]
            process = self._peer(*command, *quiet)
        elif name == "dramatiq":
            process = self._peer("dramatiq", "bench.peers.dramatiq_tasks", "--processes", "1", "--threads", str(slots))
        else:
            url = f"redis://127.0.0.1:{self.stores.redis_port}/2"
            process = self._peer("rq", "worker-pool", "-u", url, "-n", str(RQ_PROCESSES), "-q", "bench")
        with process:
            yield process

    def fill(self, name: str, count: int, sleep: float = 0.0) -> None:
        """Puts tasks with their records into its queue; `count` is a multiple of 16."""
        if name == "agent":
            with self.web("agent") as web:
                run_load(submissions(web.port, sleep, connections=16, each=count // 16))
            return
        self._run_peer("python", "-m", "bench.peers.fill", name, str(count), str(sleep))

    def _agent(self, process: str, more: dict[str, str]) -> Process:
        lines = (self.checkout.directory / "Procfile").read_text().splitlines()
        commands = dict(line.split(": ", 1) for line in lines if line.strip())
        environment = {
            "ENVIRONMENT": "production",
            "ALLOWED_HOSTS": "127.0.0.1",
            "LOG_LEVEL": "WARNING",
            "DATABASE_URL": self.stores.agent.url,
            "REDIS_ADDRESS": f"127.0.0.1:{self.stores.redis_port}",
            "MAX_QUEUE_SIZE": "1000000",
            "ML_PLATFORM": "k8s",
            "K8SPLUGIN_ADDRESS": self.platform.address,
            "ENABLE_PERIODIC_CHECK": "false",
            "PROMETHEUS_MULTIPROC_DIR": str(self.stores.directory / "metrics"),
            **more,
            **self.checkout.environment(),
        }
        return Process(["sh", "-c", f"exec env {commands[process]}"], environment, self.checkout.directory)

    def _peer_environment(self) -> dict[str, str]:
        return {
            "PATH": f"{PEERS / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "BENCH_DATABASE_URL": self.stores.peers.url,
            "BENCH_REDIS_URL": f"redis://127.0.0.1:{self.stores.redis_port}",
            "BENCH_PLATFORM_URL": f"http://{self.platform.address}/v1/predict",
        }

    def _peer(self, program: str, *args: str) -> Process:
        return Process([str(PEERS / "bin" / program), *args], self._peer_environment())

    def _run_peer(self, program: str, *args: str) -> None:
        command = [str(PEERS / "bin" / program), *args]
        subprocess.run(command, env=self._peer_environment(), cwd=ROOT, check=True)


def predictions(port: int, **more: Any) -> Load:
    """Sync predictions of an instant platform, or with `sleep=` of a slow one."""
    return Load(port=port, path="/v1/predict", body=_body(more.pop("sleep", 0)), **more)


def submissions(port: int, sleep: float = 0.0, **more: Any) -> Load:
    return Load(port=port, path="/async/v1/predict", body=_body(sleep), **more)


def _body(sleep: float) -> str:
    return f'{{"model_name":"m","inputs":{{"n":{NUMBER},"sleep":{sleep}}}}}'


def run_load(load: Load, *, may_fail: bool = False) -> dict[str, Any]:
    """Sends it from a separate process and returns the result of `bench.load.run`. Raises SystemExit on errors."""
    command = [str(PYTHON), "-m", "bench.load", load.text()]
    ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    told: dict[str, Any] = json.loads(ended.stdout)
    if told["errors"] and not may_fail:
        raise SystemExit(f"{told['errors']} errors at {load.path}, the first: {told['first_error']}")
    return told


def _wait_until_it_answers(process: Process, port: int, path: str) -> None:
    def answers() -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    wait_for(answers, START_SECONDS, f"an answer of {process.command}", process)
