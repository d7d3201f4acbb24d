"""Images and containers without a Docker engine: Debian's podman, with its store in var/peers/podman.

The tests use no registry. Debian's packages stand in for the public images that the files name: they are the same
programs in other versions: Python 3.11 (on the image's own Debian, bookworm), Redis 7.0, PostgreSQL 15.
"""

import fcntl
import json
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.helpers.servers import ROOT
from tests.helpers.virtualenvs import DIRECTORY, EnvironmentNotMadeError

STORE = DIRECTORY / "podman"
BUILD_SECONDS = 900
AGENT = "localhost/serving-agent:test"
BASE = "docker.io/library/python:3.11-slim-bookworm"
BASE_PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
REDIS = "docker.io/library/redis:7.4-alpine"
POSTGRES = "docker.io/library/postgres:17-bookworm"
STAND_INS = {REDIS: "redis.Dockerfile", POSTGRES: "postgres.Dockerfile"}
FILES = min(16384, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
OPTIONS = (
    *(f"--root={STORE / 'store'}", f"--runroot={STORE / 'run'}"),
    *("--runtime=runc", "--network-backend=netavark"),
)
# podman's own limits may be above those of this machine
LIMITS = (f"--ulimit=nofile={FILES}:{FILES}", "--ulimit=nproc=4096:4096")
NEEDED = ("podman", "runc", "debootstrap")


def podman(*arguments: str, check: bool = True, seconds: float = 120) -> str:
    """Podman's standard output. Raises AssertionError with its standard error."""
    ended = _run(*arguments, seconds=seconds)
    if check and ended.returncode:
        raise AssertionError(f"podman {' '.join(arguments)} ended with {ended.returncode}:\n{ended.stderr[-4000:]}")
    return ended.stdout


def succeeds(*arguments: str) -> bool:
    return _run(*arguments).returncode == 0


def _run(*arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["podman", *OPTIONS, *arguments], cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=seconds
    )


def build() -> str:
    """Builds the Dockerfile as it stands; the image's name. Raises EnvironmentNotMadeError."""
    with _locked():
        _base()
        _build("Dockerfile", ROOT, AGENT)
    return AGENT


def stand_in(image: str) -> str:
    """The image's name, made if it was not there. Raises EnvironmentNotMadeError."""
    with _locked():
        _base()
        if not succeeds("image", "exists", image):
            directory = Path(__file__).with_name("stand_ins")
            _build(str(directory / STAND_INS[image]), directory, image)
    return image


def _build(dockerfile: str, context: Path, image: str) -> None:
    podman(
        "build", "--pull=never", "--network=host", "--isolation=chroot", "--format=docker",
        f"--tag={image}", f"--file={dockerfile}", str(context), seconds=BUILD_SECONDS,
    )  # fmt: skip


@contextmanager
def _locked() -> Iterator[None]:
    missing = [program for program in NEEDED if not shutil.which(program)]
    if missing or os.geteuid() != 0:
        raise EnvironmentNotMadeError(f"containers need root and the Debian packages {', '.join(NEEDED)}")
    STORE.mkdir(parents=True, exist_ok=True)
    with (STORE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _base() -> None:
    """Makes the stand-in of the image that the Dockerfile begins from."""
    if succeeds("image", "exists", BASE):
        return
    with tempfile.TemporaryDirectory(dir=STORE) as root, (STORE / "debootstrap.log").open("w") as log:
        command = ["debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", "bookworm", root]
        if subprocess.run(command, stdout=log, stderr=log, timeout=BUILD_SECONDS).returncode:
            raise EnvironmentNotMadeError(f"{' '.join(command)} failed: see {log.name}")
        _talk_to_the_world_as_this_machine(Path(root))
        archive = Path(root).with_suffix(".tar")
        try:
            subprocess.run(["tar", "-C", root, "--exclude=./var/cache/apt", "-cf", archive, "."], check=True)
            podman("import", str(archive), BASE, seconds=BUILD_SECONDS)
        finally:
            archive.unlink(missing_ok=True)


def _talk_to_the_world_as_this_machine(root: Path) -> None:
    """pip in the build reaches its index as it does here."""
    for known in ("/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf"):
        if Path(known).exists() and (root / known[1:]).parent.is_dir():
            shutil.copy(known, root / known[1:])


class Container:
    """A running container, as restricted as the manifests have it: no root, nothing writable but `writable`."""

    def __init__(
        self,
        *arguments: str,
        image: str = AGENT,
        environment: dict[str, str],
        writable: dict[str, Path] | None = None,
        temporary: tuple[str, ...] = ("/tmp",),
        network: str = "host",
        options: tuple[str, ...] = (),
    ) -> None:
        self.id = podman(
            "run", "--detach", "--pull=never", "--no-healthcheck", f"--network={network}", *LIMITS,
            "--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges",
            *(f"--tmpfs={place}:rw,mode=1777" for place in temporary),
            *(f"--env={name}={value}" for name, value in environment.items()),
            *(f"--volume={path}:{place}" for place, path in (writable or {}).items()),
            *options, image, *arguments,
        ).strip()  # fmt: skip

    @property
    def state(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(podman("inspect", self.id))[0]["State"]
        return told

    @property
    def address(self) -> str:
        """Its IP address, where it has a network of its own."""
        networks = json.loads(podman("inspect", self.id))[0]["NetworkSettings"]["Networks"]
        return str(next(iter(networks.values()))["IPAddress"])

    def execute(self, *command: str) -> str:
        """The command's output in the container; it must exit with 0."""
        return podman("exec", self.id, *command)

    def succeeds(self, *command: str) -> bool:
        return succeeds("exec", self.id, *command)

    def processes(self) -> list[str]:
        """The command lines of the container's processes, PID 1 first."""
        return podman("top", self.id, "args").splitlines()[1:]

    def signal(self, name: str) -> None:
        podman("kill", "--signal", name, self.id)

    def wait(self, seconds: float = 60) -> int:
        """Its exit code, once it has ended."""
        deadline = time.monotonic() + seconds
        while self.state["Running"]:
            assert time.monotonic() < deadline, f"it did not end within {seconds} s: {self.output()[-2000:]}"
            time.sleep(0.1)
        return int(self.state["ExitCode"])

    def output(self) -> str:
        told = _run("logs", self.id)
        return told.stdout + told.stderr

    def remove(self) -> None:
        podman("rm", "--force", "--time=0", self.id, check=False)
