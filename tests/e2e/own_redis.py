"""A Redis server of one test's own, always on the same port, to be killed, restarted and emptied."""

import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import redis

from scripts.starting.embedded_redis import find_server
from tests.helpers.ports import free_port


class OwnRedis:
    """`persistent`: it keeps its data over a restart. `program`: another server than Redis."""

    def __init__(
        self,
        directory: Path,
        *,
        persistent: bool = True,
        environment: Mapping[str, str] | None = None,
        program: str = "",
    ) -> None:
        self.directory = directory
        self.persistent = persistent
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._environment = environment
        self._program = program or find_server()
        self.start()

    def start(self) -> None:
        """Starts it, and waits until it has read its data back."""
        keeping = "yes" if self.persistent else "no"
        options = ["--port", str(self.port), "--appendonly", keeping, "--appendfsync", "everysec", "--save", ""]
        with (self.directory / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._program, *options], cwd=self.directory, stdout=log, stderr=log, env=self._environment
            )
        with redis.Redis(port=self.port, socket_timeout=5) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:  # not listening yet, or still loading
                    assert self.process.poll() is None, (self.directory / "redis.log").read_text()
                    time.sleep(0.02)

    def end(self, number: int = signal.SIGKILL) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(30)

    def lose_data(self) -> None:
        """Deletes the stopped server's files."""
        shutil.rmtree(self.directory)
        self.directory.mkdir()
