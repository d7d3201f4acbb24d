"""The runs of one worker, from the claim until Redis knows how each ended."""

import logging
import threading
from collections import deque

from predictions.redis.errors import is_lost
from predictions.worker.bookkeeping import Bookkeeping
from predictions.worker.runs import Ending, Run

logger = logging.getLogger(__name__)


class ActiveRuns:
    def __init__(self, books: Bookkeeping, over: threading.Event) -> None:
        """`over` is set when the worker ends: no report is repeated after that."""
        self._books = books
        self._over = over
        self._runs: dict[str, Run] = {}
        self._ended: deque[Ending] = deque()
        """Endings that Redis does not know yet. Only the thread that holds `_reporter` takes from it."""
        self._reporter = threading.Lock()

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, run: Run) -> None:
        self._runs[run.execution_id] = run

    def all(self) -> list[Run]:
        return list(self._runs.values())

    def working(self) -> list[Run]:
        """The runs that have not ended."""
        return [run for run in self.all() if not run.has_ended]

    def end(self, run: Run, becomes: str, exception: str = "") -> None:
        """Notes how a run ended; `report` tells Redis."""
        self._ended.append(Ending(run, becomes, exception))

    def report(self) -> None:
        """Tells Redis of all endings noted so far. One thread reports for all; the others do not wait for it."""
        while self._ended and self._reporter.acquire(blocking=False):
            try:
                self.store([self._ended.popleft() for _ in range(len(self._ended))])
            finally:
                self._reporter.release()

    def store(self, endings: list[Ending]) -> None:
        """Writes endings to Redis, however long Redis is away: the leases are kept until then, so no job runs twice."""
        pause = 0.1
        while True:
            try:
                for refused in self._books.end(endings):
                    job_id = refused.run.job_id
                    logger.warning("job %s had been given to another run", job_id, extra={"task_id": job_id})
                break
            except Exception as error:  # an unforeseen error must not take the slot along
                if not is_lost(error) and len(endings) > 1:  # one ending is at fault: store each by itself
                    for one in endings:
                        self.store([one])
                    return
                if not is_lost(error) or self._over.wait(pause):
                    ids = ", ".join(one.run.job_id for one in endings)
                    logger.exception("how jobs ended could not be stored: %s", ids)
                    break
                pause = min(3.0, pause * 2)
        for one in endings:
            self._runs.pop(one.run.execution_id, None)
