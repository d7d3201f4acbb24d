"""Processes that end with the benchmark, and the memory and CPU time of whole process trees."""

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from bench.environment import ROOT

TERM_SECONDS = 8.0
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Process:
    """A command in a session of its own, with its output in a file; it ends with its `with` block."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], directory: Path = ROOT) -> None:
        """The command inherits only PATH, HOME and LANG; `environment` adds to them."""
        self.command = " ".join(command)
        self._log = tempfile.NamedTemporaryFile(prefix="bench-", suffix=".log")  # noqa: SIM115
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self._process = subprocess.Popen(
            command,
            cwd=directory,
            env={**inherited, "PYTHONUNBUFFERED": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> "Process":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def pid(self) -> int:
        return self._process.pid

    def output(self) -> str:
        return Path(self._log.name).read_text(errors="replace")

    def check(self) -> None:
        """Raises SystemExit with the end of its output if it has ended."""
        if self._process.poll() is not None:
            raise SystemExit(f"{self.command} ended with {self._process.returncode}:\n{self.output()[-3000:]}")

    def tree(self) -> list[int]:
        """The ids of it and its living descendants."""
        return _tree(self.pid)

    def signal_all(self, number: int) -> None:
        for pid in self.tree():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def memory_mb(self) -> float:
        """Proportional set size of the tree, which counts shared memory once. Megabytes of 2**20 bytes."""
        return sum(_pss_kb(pid) for pid in self.tree()) / 1024

    def cpu_seconds(self) -> float:
        """CPU time of the tree."""
        return cpu_seconds(self.pid)

    def end(self) -> None:
        """Sends SIGTERM, and after TERM_SECONDS SIGKILL to the rest of the tree."""
        everybody = self.tree()
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(TERM_SECONDS)
        for pid in everybody:
            with suppress(ProcessLookupError, PermissionError):
                if pid == self.pid or _session(pid) == self.pid:
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()


class PeakMemory:
    """The most memory that a tree held inside the `with` block, sampled five times a second. Megabytes."""

    def __init__(self, process: Process) -> None:
        self.mb = 0.0
        self._process = process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while True:
            self.mb = max(self.mb, self._process.memory_mb())
            if self._over.wait(0.2):
                return

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()


def wait_for(condition: Callable[[], bool], seconds: float, what: str, process: Process | None = None) -> None:
    """Returns when `condition` is true. Raises SystemExit after `seconds`, or when the process has ended."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process is not None:
            process.check()
        if time.monotonic() > deadline:
            said = process.output()[-3000:] if process else ""
            raise SystemExit(f"{what} did not happen within {seconds:.0f} s\n{said}")
        time.sleep(0.02)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, of its living descendants, and of those that have ended."""
    return sum(_cpu_ticks(each) for each in _tree(pid)) / _TICKS_PER_SECOND


def machine_cpu_seconds() -> tuple[float, float]:
    """CPU time of this machine since its start: that of all processes and the hypervisor's, and that with idle time."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    return (sum(ticks) - idle) / _TICKS_PER_SECOND, sum(ticks) / _TICKS_PER_SECOND


def _tree(pid: int) -> list[int]:
    found = [pid]
    for each in found:
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{each}/task"):
                children = Path(f"/proc/{each}/task/{thread}/children").read_text()
                found.extend(int(child) for child in children.split())
    return found


def _pss_kb(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def _cpu_ticks(pid: int) -> int:
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(ticks) for ticks in fields[11:15])
    return 0


def _session(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[3])
    return 0
