"""scripts/run in a checkout of its own, as a user runs it."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.helpers.ports import free_port
from tests.helpers.servers import ROOT
from tests.helpers.waiting import until


def shell_environment() -> dict[str, str]:
    """The environment of a user's shell, without the settings of these tests."""
    shell = ("PATH", "HOME", "LANG", "TERM", "TMPDIR")
    return {name: value for name, value in os.environ.items() if name in shell or name.startswith("PIP_")}


class Run:
    """scripts/run in a checkout, on ports of its own."""

    def __init__(self, checkout: Path, *, before: Sequence[str] = (), **environment: str) -> None:
        """`before` stands before the command line."""
        self.checkout = checkout
        self._more = environment
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = checkout.parent / f"run-{self.port}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*before, "scripts/run"],
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
        until(lambda: text in self.output() or self.process.poll() is not None, seconds)
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
def running(checkout: Path, seconds: float = 60, **options: Any) -> Iterator[Run]:
    """Waits until the agent is up; ends all that runs in the checkout. `options` are those of `Run`."""
    run = Run(checkout, **options)
    try:
        run.wait_for("Press Ctrl-C to stop everything.", seconds)
        yield run
    finally:
        for pid in run.processes():
            os.kill(pid, signal.SIGKILL)
        run.process.wait()


def in_a_shell(*commands: str) -> list[str]:
    """The lines that the commands print in one shell."""
    script = "; echo; ".join(commands)
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert not done.stderr, done.stderr
    return [line for line in done.stdout.splitlines() if line]


def copy_work_tree(copy: Path) -> None:
    """Copies the files that a clone of the work tree would have."""
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
