"""How answers are read: bounded, within the deadline, and as platforms really write JSON."""

import gzip
import tracemalloc
from collections.abc import Iterator

import pytest

from platforms import InvalidInputs, PlatformError, PlatformUnavailable
from platforms.parsing import loads, words_of
from tests.helpers.makers import FLOWER, K8S, KSERVE, Direct, call
from tests.helpers.stub import Stub, answers, pours, says, streams


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_of_200_mb_is_not_held_in_memory(stub: Stub, traced: None, announced: bool, status: int) -> None:
    stub.script(K8S.route, pours(200_000_000, announced=announced, status=status))
    platform = K8S.make(stub.address, max_response_bytes=1_000_000)
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    with pytest.raises(PlatformError):
        platform.predict(FLOWER, call())
    _, peak = tracemalloc.get_traced_memory()
    assert peak - before < 5_000_000


def test_a_compressed_answer_is_bounded_by_its_real_size(stub: Stub, traced: None) -> None:
    bomb = gzip.compress(b'"' + b"x" * 50_000_000 + b'"')
    stub.script(K8S.route, says(bomb, content_type="application/json", content_encoding="gzip"))
    platform = K8S.make(stub.address, max_response_bytes=1_000_000)
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    with pytest.raises(PlatformError, match="MAX_RESPONSE_BODY"):
        platform.predict(FLOWER, call())
    _, peak = tracemalloc.get_traced_memory()
    assert peak - before < 5_000_000


def test_an_unrequested_compressed_answer_is_read(stub: Stub) -> None:
    body = gzip.compress(b'{"predictions": [1]}')
    stub.script(KSERVE.route, says(body, content_type="application/json", content_encoding="gzip"))
    assert KSERVE.make(stub.address).predict(FLOWER, call()).outputs == {"predictions": [1]}
    assert stub.received[0].headers["accept-encoding"] == "identity"


def test_an_answer_as_large_as_allowed_is_read(stub: Stub) -> None:
    stub.script(K8S.route, answers({"text": "x" * 100_000}))
    platform = K8S.make(stub.address, max_response_bytes=len('{"text": ""}') + 100_000)
    assert len(platform.predict(FLOWER, call()).outputs["text"]) == 100_000


def test_numbers_that_json_cannot_say_again_become_none() -> None:
    assert loads(b'{"a": NaN, "b": [Infinity, -Infinity], "c": 1e999, "d": -1E+999, "e": 1.5e10}') == {
        "a": None,
        "b": [None, None],
        "c": None,
        "d": None,
        "e": 1.5e10,
    }
    assert loads(b"[" + b"9" * 400 + b".5]") == [None]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"error": "X has 2 features"}, "X has 2 features"),
        ({"detail": "Method Not Allowed"}, "Method Not Allowed"),
        ({"detail": [{"loc": ["body"], "msg": "field required"}]}, "field required"),
        ({"title": "Input validation failed", "detail": "- input: x is required\n"}, "- input: x is required\n"),
        ({"title": "Unauthenticated", "status": 401}, "Unauthenticated"),
        ('{"error_type": "V", "error_message": "bad", "error_traceback": "T", "hostname": "h"}', "bad"),
        ({"error": '{"error_message": "bad"}'}, "bad"),
        ("plain words", "plain words"),
        ("{'error_message': 'a Python dict', 'hostname': 'h'}", ""),
        ({"error": {"code": 3}}, ""),
        ([], ""),
        (None, ""),
        (3, ""),
    ],
)
def test_an_errors_words_are_found_wherever_platforms_put_them(said: object, words: str) -> None:
    assert words_of(said) == words


def test_errors_show_nothing_of_the_platforms_inside(stub: Stub) -> None:
    stub.script(K8S.route, answers({"error": "no connection to http://10.0.0.7:9000/m (/srv/m.py)"}, status=500))
    with pytest.raises(PlatformError) as error:
        K8S.make(stub.address).predict(FLOWER, call())
    assert str(error.value).startswith("no connection to")
    assert not any(part in str(error.value) for part in ("10.0.0.7", "srv", "9000"))


def test_the_request_is_sent_as_kserve_wants_it_and_names_its_id(stub: Stub) -> None:
    stub.script(KSERVE.route, answers({}))
    KSERVE.make(stub.address).predict(FLOWER, call(request_id="abc"))
    sent = stub.received[0].headers
    assert sent["content-type"] == "application/json"
    assert sent["x-request-id"] == "abc"
    assert "cookie" not in sent


@pytest.mark.parametrize("request_id", ["", "a\r\nX-Evil: 1", "ü", " "])
def test_a_request_id_that_no_header_can_hold_is_left_out(stub: Stub, request_id: str) -> None:
    stub.script(K8S.route, answers({}))
    K8S.make(stub.address).predict(FLOWER, call(request_id=request_id))
    assert "x-request-id" not in stub.received[0].headers


def test_cookies_are_not_kept(stub: Stub) -> None:
    stub.script(K8S.route, answers({}, set_cookie="a=b"))
    platform = K8S.make(stub.address)
    for _ in range(2):
        platform.predict(FLOWER, call())
    assert "cookie" not in stub.received[1].headers


def test_proxies_of_the_environment_are_not_used(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    stub.script(K8S.route, answers({}))
    assert K8S.make(stub.address).predict(FLOWER, call()).outputs == {}


@pytest.mark.parametrize("direct", [KSERVE, K8S], ids=["kserve", "k8s"])
@pytest.mark.parametrize("address", ["", "not a host", "http://host", "host:port", "x" * 300])
def test_an_address_that_is_none_is_the_settings_fault(direct: Direct, address: str) -> None:
    with pytest.raises(PlatformError) as error:
        direct.make(address).predict(FLOWER, call())
    assert not isinstance(error.value, InvalidInputs)


def test_an_unknown_host_is_unavailable() -> None:
    with pytest.raises(PlatformUnavailable):
        K8S.make("nobody.invalid:80").predict(FLOWER, call())


def test_an_answer_in_chunks_is_put_together(stub: Stub) -> None:
    stub.script(K8S.route, streams(b'{"a"', b": ", b"1}", content_type="application/json"))
    assert K8S.make(stub.address).predict(FLOWER, call()).outputs == {"a": 1}
