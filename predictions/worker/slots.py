"""Slots: the threads in which a worker's jobs run, never more at once than it has slots."""

import queue
import threading
from collections.abc import Callable

from predictions.worker.runs import Run


class Slots:
    """A slot is taken with `acquire`, used by `run`, and free again when that has ended or after `release`."""

    def __init__(self, size: int, perform: Callable[[Run], bool]) -> None:
        """`perform` runs a job to its end; False where that came too late, and its slot had been released."""
        self._perform = perform
        self._free = threading.Semaphore(size)
        self._handed: queue.SimpleQueue[Run] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0

    def acquire(self, wanted: int, *, timeout: float) -> int:
        """As many free slots as there are, up to `wanted`, waiting up to `timeout` seconds for the first."""
        if not self._free.acquire(timeout=timeout):
            return 0
        free = 1
        while free < wanted and self._free.acquire(blocking=False):
            free += 1
        return free

    def release(self, count: int = 1) -> None:
        """Gives slots back that were not used, or whose thread does not come back."""
        for _ in range(count):
            self._free.release()

    def run(self, run: Run) -> None:
        """In an acquired slot. Threads that wait for the next job are used before a new one is started."""
        with self._lock:
            is_one_waiting = self._idle > 0
            self._idle -= is_one_waiting
        if not is_one_waiting:
            threading.Thread(target=self._keep_running, name="slot", daemon=True).start()
        self._handed.put(run)

    def _keep_running(self) -> None:
        while self._perform(self._handed.get()):
            with self._lock:
                self._idle += 1
            self._free.release()
