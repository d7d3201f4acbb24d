"""Looking over PostgreSQL's shoulder while others use it."""

import threading
from types import TracebackType

import psycopg

LOOK_EVERY_SECONDS = 0.01
WAITING = """
SELECT wait_event, left(query, 80) FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND datname = current_database()
"""


class LockWaits:
    """Every statement of a database that was seen to wait for another's lock, until the block ends."""

    def __init__(self, url: str) -> None:
        self.seen: list[tuple[str, str]] = []
        self._url = url
        self._over = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "LockWaits":
        self._looking.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._looking.join(60)

    def _look(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as server:
            while not self._over.wait(LOOK_EVERY_SECONDS):
                self.seen += server.execute(WAITING).fetchall()
