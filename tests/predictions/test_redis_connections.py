"""The connection to whoever is master, on real servers, and the settings that say where it is."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.checks import run_checks
from redis._parsers import _HiredisParser

from predictions.redis.connections import MasterConnection, forget_connections, get_redis, is_lost
from predictions.redis.topology import Address, ElectedMaster, View, parse_address
from tests.conftest import one_redis
from tests.helpers.redis_servers import HOST, RedisServer, Security, until


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RedisServer, RedisServer]]:
    """A master and its replica."""
    directory = tmp_path_factory.mktemp("redis")
    master = RedisServer(directory / "master", options={"repl-diskless-sync-delay": "0"})
    replica = RedisServer(directory / "replica", options={"replicaof": f"{HOST} {master.port}"})
    until(lambda: replica.ask("ROLE")[3] == "connected")
    yield master, replica
    for server in (master, replica):
        server.kill()


class Told:
    """A master that the test names."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.doubted: list[Address] = []

    def address(self) -> Address:
        return HOST, self.server.port

    def is_current(self, address: Address) -> bool:
        return address == self.address()

    def doubt(self, address: Address) -> None:
        self.doubted.append(address)


@pytest.fixture
def connect() -> Iterator[Callable[[Told], redis.Redis]]:
    """A client with one connection, made as the agent's are; what fails is not repeated."""
    pools = []

    def make(master: Told) -> redis.Redis:
        pools.append(
            redis.BlockingConnectionPool(
                connection_class=MasterConnection, master=master, max_connections=1, socket_timeout=1
            )
        )
        return redis.Redis(connection_pool=pools[-1])

    yield make
    for pool in pools:
        pool.disconnect()


Connect = Callable[[Told], redis.Redis]
Pair = tuple[RedisServer, RedisServer]


def test_a_replica_that_refuses_a_write_is_as_good_as_no_answer(connect: Connect, pair: Pair) -> None:
    master = Told(pair[1])
    with pytest.raises(redis.ConnectionError, match="READONLY"):
        connect(master).set("a", 1)
    assert master.doubted == [(HOST, pair[1].port)]


def test_a_script_that_writes_to_a_replica_is_refused_in_the_same_way(connect: Connect, pair: Pair) -> None:
    with pytest.raises(redis.ConnectionError, match="READONLY"):
        connect(Told(pair[1])).eval("return redis.call('SET', KEYS[1], 1)", 1, "a")


def test_what_is_wrong_with_a_command_is_no_reason_to_doubt_the_server(connect: Connect, pair: Pair) -> None:
    master = Told(pair[0])
    with pytest.raises(redis.ResponseError) as refusal:
        connect(master).execute_command("NO-SUCH-COMMAND")
    assert not is_lost(refusal.value)
    assert master.doubted == []


def test_a_connection_to_a_server_that_is_master_no_more_is_not_used(connect: Connect, pair: Pair) -> None:
    master = Told(pair[1])
    client = connect(master)
    assert client.role()[0] == b"slave"
    master.server = pair[0]
    with pytest.raises(redis.ConnectionError, match="another Redis server became master"):
        client.role()
    assert client.role()[0] == b"master"


def test_a_frozen_server_is_doubted(connect: Connect, pair: Pair) -> None:
    master = Told(pair[0])
    client = connect(master)
    client.ping()
    pair[0].freeze()
    with pytest.raises(redis.TimeoutError):
        client.ping()
    pair[0].thaw()
    assert master.doubted == [(HOST, pair[0].port)]


def test_a_master_that_its_replicas_have_left_is_doubted(connect: Connect, pair: Pair) -> None:
    pair[0].ask("CONFIG", "SET", "min-replicas-to-write", 9)
    master = Told(pair[0])
    with pytest.raises(redis.ConnectionError, match="NOREPLICAS"):
        connect(master).set("a", 1)
    pair[0].ask("CONFIG", "SET", "min-replicas-to-write", 0)
    assert master.doubted == [(HOST, pair[0].port)]


def test_what_a_full_server_refuses_may_succeed_later(connect: Connect, pair: Pair) -> None:
    pair[0].ask("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(redis.ResponseError) as refusal:
        connect(Told(pair[0])).set("a", 1)
    pair[0].ask("CONFIG", "SET", "maxmemory", 0)
    assert is_lost(refusal.value)


def test_what_a_script_of_an_older_redis_was_refused_may_succeed_later() -> None:
    text = "Error running script (call to f_9b): @user_script:26: @user_script: 26: -NOREPLICAS Not enough good slaves"
    assert is_lost(redis.ResponseError(f"ERR {text}"))
    assert not is_lost(redis.ResponseError(f"ERR {text.replace('-NOREPLICAS', '-WRONGTYPE')}"))


class Witnesses(ElectedMaster):
    """Servers that say what the test has them say; None: no answer."""

    def __init__(self, says: dict[Address, View | None], named: list[Address]) -> None:
        super().__init__(named, login={}, ask_login={})
        self.says = says
        self.asked: list[Address] = []

    def _ask(self, client: redis.Redis, server: Address) -> View:
        self.asked.append(server)
        view = self.says[server]
        if view is None:
            raise redis.ConnectionError("refused")
        return view


def address(server: RedisServer) -> Address:
    return HOST, server.port


A, B, C, D = (("a", 1), ("b", 1), ("c", 1), ("d", 1))


def test_the_newest_election_of_three_answers_counts(pair: Pair) -> None:
    old, new = View(1, ("gone", 1)), View(2, address(pair[0]))
    assert Witnesses({A: old, B: new, C: old}, [A, B, C]).address() == address(pair[0])


def test_servers_are_found_through_others_and_the_silent_ones_asked_last(pair: Pair) -> None:
    view = View(1, address(pair[0]), (B, C, D))
    witnesses = Witnesses({A: None, B: view, C: view, D: view}, [A, B])
    witnesses.address()
    assert witnesses.asked == [A, B, C, D]
    witnesses.doubt(address(pair[0]))
    witnesses.address()
    assert witnesses.asked[4:] == [B, C, D]


def test_after_a_silence_the_master_is_asked_for_again(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    witnesses = Witnesses({A: View(1, address(pair[0]))}, [A])
    found = witnesses.address()
    assert witnesses.is_current(found)
    assert witnesses.asked == [A]
    monkeypatch.setattr("predictions.redis.topology.IDLE_SECONDS", -1)
    witnesses.says[A] = None
    assert witnesses.is_current(found)  # nobody tells otherwise
    moved = RedisServer(pair[0].directory / "elsewhere")
    witnesses.says[A] = View(2, address(moved))
    assert not witnesses.is_current(found)
    assert witnesses.address() == address(moved)
    moved.kill()


def test_one_that_is_not_master_yet_is_no_master(pair: Pair) -> None:
    with pytest.raises(redis.ConnectionError, match="not the master yet"):
        Witnesses({A: View(1, address(pair[1]))}, [A]).address()


def test_there_may_be_no_master_now() -> None:
    with pytest.raises(redis.ConnectionError, match="no master now"):
        Witnesses({A: View(1, None)}, [A]).address()


def test_where_nobody_answers_the_error_says_what_was_tried() -> None:
    with pytest.raises(redis.ConnectionError, match="a:1: refused; b:1: refused"):
        Witnesses({A: None, B: None}, [A, B]).address()


def test_a_crowd_that_needs_the_master_searches_once(pair: Pair) -> None:
    witnesses = Witnesses({A: View(1, address(pair[0]))}, [A])
    with ThreadPoolExecutor(16) as pool:
        assert {future.result() for future in [pool.submit(witnesses.address) for _ in range(64)]} == {address(pair[0])}
    assert witnesses.asked == [A]


def test_a_crowd_that_finds_no_master_searches_once() -> None:
    witnesses = Witnesses({A: None}, [A])
    with ThreadPoolExecutor(16) as pool:
        errors = [pool.submit(witnesses.address).exception() for _ in range(16)]
    assert {type(error) for error in errors} == {redis.ConnectionError}
    assert witnesses.asked == [A]


@pytest.fixture
def started() -> Iterator[list[RedisServer]]:
    """Servers of a test's own; it adds them."""
    servers: list[RedisServer] = []
    yield servers
    forget_connections()
    for server in servers:
        server.kill()


@pytest.mark.parametrize("password", ["of the sentinels", "of the servers"])
def test_sentinels_are_asked_with_a_password_of_their_own(
    configured: Callable[..., None], started: list[RedisServer], tmp_path: Path, password: str
) -> None:
    started.append(RedisServer(tmp_path / "master", Security("of-the-servers")))
    watch = [f"sentinel monitor agents {HOST} {started[0].port} 1", "sentinel auth-pass agents of-the-servers"]
    started.append(RedisServer(tmp_path / "sentinel", Security("of-the-sentinels"), lines=watch, is_sentinel=True))
    passwords = {"REDIS_PASSWORD": "of-the-servers", "REDIS_SENTINEL_PASSWORD": password.replace(" ", "-")}
    sentinels = {"REDIS_SENTINELS": [started[1].address], "REDIS_SENTINEL_MASTER": "agents"}
    configured(**{**one_redis(""), **sentinels, **passwords})
    forget_connections()
    if password == "of the sentinels":
        assert get_redis().ping()
    else:
        with pytest.raises(redis.ConnectionError, match="no Redis server says who is master"):
            get_redis().ping()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis:6380", ("redis", 6380)),
        ("redis", ("redis", 6379)),
        (" 10.0.0.1:1 ", ("10.0.0.1", 1)),
        ("[::1]:7000", ("::1", 7000)),
        ("[fe80::1]", ("fe80::1", 6379)),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, expected: Address) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text", ["", "host:notaport", "host:", ":1", "host:0", "host:65536", "::1", "a b", "redis://h"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        parse_address(text)


@pytest.mark.parametrize(
    ("numbers", "changes"),
    [
        ({"E007"}, {"REDIS_ADDRESS": "redis://:secret@host:1", "REDIS_CLUSTER_MODE": False}),
        ({"E007"}, {"REDIS_SENTINELS": ["a:b"], "REDIS_SENTINEL_MASTER": "m", "REDIS_ADDRESS": ""}),
        ({"E040"}, {"REDIS_CLUSTER_MODE": True, "REDIS_SENTINELS": ["a"], "REDIS_SENTINEL_MASTER": "m"}),
        ({"E041"}, {"REDIS_ADDRESS": "a", "REDIS_SENTINELS": ["a"], "REDIS_SENTINEL_MASTER": "m"}),
        ({"E042"}, {"REDIS_ADDRESS": "", "REDIS_CLUSTER_MODE": True}),
        ({"E043"}, {"REDIS_ADDRESS": "a:1,b:1"}),
        ({"E044"}, {"REDIS_ADDRESS": "", "REDIS_SENTINELS": ["a"]}),
        ({"E044"}, {"REDIS_SENTINEL_MASTER": "m"}),
        ({"E046"}, {"REDIS_CLUSTER_MODE": True, "REDIS_ADDRESS": "a", "USE_LOCAL_REDIS": True}),
        ({"E047"}, {"REDIS_TLS_CA_FILE": __file__}),
        ({"E048"}, {"REDIS_TLS": True, "REDIS_TLS_CA_FILE": "/nowhere/ca.pem"}),
        ({"E049"}, {"REDIS_TLS": True, "REDIS_TLS_KEY_FILE": __file__}),
        (set(), {"REDIS_TLS": True, "REDIS_TLS_CERT_FILE": __file__, "REDIS_TLS_KEY_FILE": __file__}),
        (set(), {"REDIS_ADDRESS": "", "REDIS_SENTINELS": ["a", "b:1"], "REDIS_SENTINEL_MASTER": "m"}),
    ],
)
def test_settings_of_redis_that_cannot_be_meant_are_refused(
    configured: Callable[..., None], numbers: set[str], changes: dict[str, Any]
) -> None:
    configured(**{**one_redis("redis:6379"), **changes})
    found = [message for message in run_checks() if message.id not in ("agent.E005", "agent.E045")]
    assert {message.id for message in found} == {f"agent.{number}" for number in numbers}
    assert all(message.hint and "secret" not in message.msg for message in found)


def test_keys_that_would_be_spread_over_a_cluster_are_refused(
    configured: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for prefix, refused in (("rq", True), ("{}rq", True), ("{agents}:rq", False)):
        monkeypatch.setattr("predictions.redis.checks.RQ_KEY_PREFIX", prefix)
        configured(REDIS_CLUSTER_MODE=True, REDIS_SENTINELS=[], REDIS_ADDRESS="a")
        assert ("agent.E045" in {message.id for message in run_checks()}) is refused


def test_without_any_redis_the_error_says_what_to_set(configured: Callable[..., None], tmp_path: Path) -> None:
    configured(REDIS_ADDRESS="", REDIS_SENTINELS=[], EMBEDDED_REDIS_DIR=tmp_path)
    forget_connections()
    with pytest.raises(redis.ConnectionError, match="set REDIS_ADDRESS"):
        get_redis()
    forget_connections()


def test_hiredis_parses_what_redis_answers() -> None:
    connection = get_redis().connection_pool.make_connection()
    assert isinstance(connection, MasterConnection)
    assert isinstance(connection._parser, _HiredisParser)
