"""Connections to the current master, on real servers, and the settings that describe the topology."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.checks import run_checks
from redis._parsers import _HiredisParser
from redis.backoff import NoBackoff
from redis.retry import Retry

from predictions.redis.addresses import Address, parse_address
from predictions.redis.connections import MasterConnection, forget_connections, get_redis
from predictions.redis.errors import is_lost
from predictions.redis.topology import ASK_OPTIONS, MasterSearch, View, newest_master
from tests.helpers.redis_servers import HOST, RedisServer, Security, one_redis
from tests.helpers.redis_topologies import SLOTS
from tests.helpers.waiting import until


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
    """The master that the test names."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server

    def __call__(self) -> Address:
        return address(self.server)


def address(server: RedisServer) -> Address:
    return HOST, server.port


@pytest.fixture
def connect() -> Iterator[Callable[..., redis.Redis]]:
    """A client with one connection, made as the agent's are; by default it repeats nothing."""
    pools = []

    def make(master: Callable[[], Address], *, repeats: int = 0, **options: Any) -> redis.Redis:
        pools.append(
            redis.BlockingConnectionPool(
                connection_class=MasterConnection,
                find_master=master,
                max_connections=1,
                socket_timeout=1,
                retry=Retry(NoBackoff(), repeats),
                **options,
            )
        )
        return redis.Redis(connection_pool=pools[-1])

    yield make
    for pool in pools:
        pool.disconnect()


Connect = Callable[..., redis.Redis]
Pair = tuple[RedisServer, RedisServer]


def test_a_replica_that_refuses_a_write_is_as_good_as_no_answer(connect: Connect, pair: Pair) -> None:
    with pytest.raises(redis.ConnectionError, match="READONLY"):
        connect(Told(pair[1])).set("a", 1)


def test_a_script_that_writes_to_a_replica_is_refused_in_the_same_way(connect: Connect, pair: Pair) -> None:
    with pytest.raises(redis.ConnectionError, match="READONLY"):
        connect(Told(pair[1])).eval("return redis.call('SET', KEYS[1], 1)", 1, "a")


def test_a_command_that_a_former_master_refuses_is_repeated_at_the_new_one(connect: Connect, pair: Pair) -> None:
    servers = iter([pair[1], pair[0]])
    assert connect(lambda: address(next(servers)), repeats=1).set("a", 1)
    assert pair[0].ask("GET", "a") == "1"


def test_after_an_ordinary_error_the_connection_stays_in_use(connect: Connect, pair: Pair) -> None:
    servers = iter([pair[0]])
    client = connect(lambda: address(next(servers)))
    with pytest.raises(redis.ResponseError) as refusal:
        client.execute_command("NO-SUCH-COMMAND")
    assert not is_lost(refusal.value)
    assert client.ping()


def test_an_idle_connection_to_a_former_master_is_not_used(connect: Connect, pair: Pair) -> None:
    master = Told(pair[1])
    client = connect(master, health_check_interval=1)
    assert client.role()[0] == b"slave"
    master.server = pair[0]
    time.sleep(1.1)
    with pytest.raises(redis.ConnectionError, match="another Redis server became master"):
        client.role()
    assert client.role()[0] == b"master"


def test_an_idle_connection_stays_in_use_if_no_server_says_who_is_master(connect: Connect, pair: Pair) -> None:
    servers = iter([pair[0]])

    def find() -> Address:
        for server in servers:
            return address(server)
        raise redis.ConnectionError

    client = connect(find, health_check_interval=1)
    number = client.client_id()
    time.sleep(1.1)
    assert client.client_id() == number


def test_after_a_timeout_the_next_command_looks_for_the_master(connect: Connect, pair: Pair) -> None:
    master = Told(pair[0])
    client = connect(master)
    client.ping()
    pair[0].freeze()
    with pytest.raises(redis.TimeoutError):
        client.ping()
    master.server = pair[1]
    assert client.role()[0] == b"slave"
    pair[0].thaw()


def test_a_master_that_its_replicas_have_left_is_as_good_as_no_answer(connect: Connect, pair: Pair) -> None:
    pair[0].ask("CONFIG", "SET", "min-replicas-to-write", 9)
    with pytest.raises(redis.ConnectionError, match="NOREPLICAS"):
        connect(Told(pair[0])).set("a", 1)
    pair[0].ask("CONFIG", "SET", "min-replicas-to-write", 0)


def test_a_server_that_is_not_master_yet_is_not_used(pair: Pair) -> None:
    assert MasterSearch(lambda: address(pair[0]), ASK_OPTIONS)() == address(pair[0])
    with pytest.raises(redis.ConnectionError, match="not the master yet"):
        MasterSearch(lambda: address(pair[1]), ASK_OPTIONS)()


def test_a_full_servers_refusal_is_temporary(connect: Connect, pair: Pair) -> None:
    pair[0].ask("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(redis.ResponseError) as refusal:
        connect(Told(pair[0])).set("a", 1)
    pair[0].ask("CONFIG", "SET", "maxmemory", 0)
    assert is_lost(refusal.value)


def test_an_older_redis_refusal_in_a_script_is_temporary() -> None:
    text = "Error running script (call to f_9b): @user_script:26: @user_script: 26: -NOREPLICAS Not enough good slaves"
    assert is_lost(redis.ResponseError(f"ERR {text}"))
    assert not is_lost(redis.ResponseError(f"ERR {text.replace('-NOREPLICAS', '-WRONGTYPE')}"))


Says = dict[str, View | None]
OLD, NEW, NONE_NOW = View(1, ("old", 1)), View(2, ("new", 1)), View(2, None)


def asks(says: Says, order: list[str]) -> Callable[[str], View]:
    """Each server gives its view; a server without a view does not answer. Records the order of the questions."""

    def ask(server: str) -> View:
        order.append(server)
        view = says[server]
        if view is None:
            raise redis.ConnectionError(f"{server} refused")
        return view

    return ask


@pytest.mark.parametrize("says", [{"a": OLD, "b": NEW}, {"a": NEW, "b": OLD}, {"a": None, "b": OLD, "c": NEW}])
def test_the_newer_of_two_views_counts(says: Says) -> None:
    assert newest_master(list(says), asks(says, [])) == ("new", 1)


def test_silent_servers_are_tried_last() -> None:
    servers, order = list("abcd"), list[str]()
    ask = asks({"a": None, "b": NEW, "c": OLD, "d": OLD}, order)
    newest_master(servers, ask)
    assert order == ["a", "b", "c"]
    newest_master(servers, ask)
    assert order[3:] == ["b", "c"]


def test_there_may_be_no_master_now() -> None:
    with pytest.raises(redis.ConnectionError, match="no master now"):
        newest_master(list("ab"), asks({"a": OLD, "b": NONE_NOW}, []))


def test_if_no_server_answers_the_error_lists_the_tried_ones() -> None:
    with pytest.raises(redis.ConnectionError, match="a refused; b refused"):
        newest_master(list("ab"), asks({"a": None, "b": None}, []))


@pytest.mark.parametrize("is_there", [True, False])
def test_a_crowd_that_needs_the_master_searches_once(pair: Pair, is_there: bool) -> None:
    everyone_waits, searches = threading.Event(), []

    def find() -> Address:
        everyone_waits.wait(30)
        searches.append(is_there)
        if is_there:
            return address(pair[0])
        raise redis.ConnectionError("no server answers")

    search = MasterSearch(find, ASK_OPTIONS)
    with ThreadPoolExecutor(16) as pool:
        crowd = [pool.submit(search) for _ in range(16)]
        everyone_waits.set()
        found = [str(future.exception() or future.result()) for future in crowd]
    assert len(searches) == 1
    assert set(found) == {str(address(pair[0])) if is_there else "no server answers"}


@pytest.fixture
def started() -> Iterator[list[RedisServer]]:
    """Servers of a test's own; it adds them."""
    servers: list[RedisServer] = []
    yield servers
    forget_connections()
    for server in servers:
        server.kill()


def test_the_sentinel_with_the_newer_election_wins(
    configured: Callable[..., None], started: list[RedisServer], tmp_path: Path
) -> None:
    """The first one and its master were cut off from the others, who have elected another master since."""
    for name, election in (("old", 1), ("new", 2)):
        master = RedisServer(tmp_path / f"{name}-master")
        watch = [f"sentinel monitor agents {HOST} {master.port} 1", f"sentinel config-epoch agents {election}"]
        started += [master, RedisServer(tmp_path / f"{name}-sentinel", lines=watch, is_sentinel=True)]
    sentinels = [server.address for server in started if server.is_sentinel]
    configured(**one_redis("") | {"REDIS_SENTINELS": sentinels, "REDIS_SENTINEL_MASTER": "agents"})
    forget_connections()
    get_redis().set("where", "here")
    assert [server.ask("EXISTS", "where") for server in started if not server.is_sentinel] == [0, 1]


def test_a_node_of_a_cluster_leads_to_the_others(
    configured: Callable[..., None], started: list[RedisServer], tmp_path: Path
) -> None:
    options = {"cluster-enabled": "yes"}
    started += [RedisServer(tmp_path / name, options=options) for name in ("first", "second")]
    first, second = started
    second.ask("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
    first.ask("CLUSTER", "MEET", HOST, second.port)
    until(lambda: first.ask("CLUSTER INFO")["cluster_state"] == "ok")
    configured(**one_redis(first.address) | {"REDIS_CLUSTER_MODE": True})
    forget_connections()
    assert get_redis().set("{rq}", 1)
    first.kill()
    get_redis().connection_pool.disconnect()
    assert get_redis().get("{rq}") == b"1"


@pytest.mark.parametrize("password", ["of the sentinels", "of the servers"])
def test_sentinels_have_a_password_of_their_own(
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
def test_an_invalid_address_is_refused(text: str) -> None:
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
