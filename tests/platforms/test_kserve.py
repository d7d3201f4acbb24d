"""KServe's own: names and hosts, kinds of answers, streams, docs."""

import pytest

from platforms import (
    CallStopped,
    Chunk,
    InvalidInputs,
    PlatformError,
    PlatformTimeout,
    Prediction,
    StopReason,
    Unsupported,
)
from platforms.kserve import has_generate
from tests.helpers.makers import FLOWER, K8S, KSERVE, call, k8s, kserve
from tests.helpers.stub import Stub, answers, drips, head, later, says, streams, streams_until_hung_up

PREDICT = KSERVE.route
GENERATE = "POST /v1/models/iris:generate"
DOCS = "GET /v1/docs/iris"


def line(number: int) -> bytes:
    return b'{"id": %d, "data": "tok%d"}\n' % (number, number)


def texts(chunks: list[Chunk]) -> list[str]:
    return [chunk.data for chunk in chunks]


@pytest.mark.parametrize(
    ("version", "generates"),
    [
        ("0.9", True),
        ("0.9.0", True),
        ("0.10", True),
        ("0.10.2", True),
        ("v0.10.2", True),
        ("0.10.10", False),
        ("0.11", False),
        ("0.13", False),
        ("v0.13.1", False),
        ("0.21.0", False),
        ("1", False),
        ("latest", False),
        ("", False),
    ],
)
def test_versions_compare_as_versions(version: str, generates: bool) -> None:
    assert has_generate(version) is generates


@pytest.mark.parametrize(
    ("template", "host"),
    [
        ("{model}.{namespace}.{domain}", "iris.default.example.com"),
        ("{model}-{namespace}.{domain}", "iris-default.example.com"),
        ("{model}-predictor.{namespace}.svc.cluster.local", "iris-predictor.default.svc.cluster.local"),
    ],
)
def test_the_host_header_names_the_model(stub: Stub, template: str, host: str) -> None:
    stub.script(PREDICT, answers({}))
    kserve(stub.address, host_template=template).predict(FLOWER, call())
    assert stub.received[0].headers["host"] == host


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "a b", "é", "a\r\nX: 1", "a?b", "a@b", "..", "."])
def test_a_model_name_that_no_address_can_hold_is_refused(stub: Stub, name: str) -> None:
    with pytest.raises(InvalidInputs):
        kserve(stub.address).predict(Prediction(name, {}), call())
    assert not stub.received


@pytest.mark.parametrize(
    ("step", "outputs"),
    [
        (answers({"predictions": [1, 2]}), {"predictions": [1, 2]}),
        (answers([1, 2]), [1, 2]),
        (answers(3), 3),
        (answers(None), None),
        (says(b"plain text"), "plain text"),
        (says(b'{"a": NaN}', content_type="application/json"), {"a": None}),
        (says(b""), None),
    ],
)
def test_models_may_answer_anything(stub: Stub, step: object, outputs: object) -> None:
    stub.script(PREDICT, step)  # type: ignore[arg-type]
    assert kserve(stub.address).predict(FLOWER, call()).outputs == outputs


def test_bad_input_is_often_a_500_and_its_words_are_kept(stub: Stub) -> None:
    stub.script(PREDICT, answers({"error": "X has 2 features, but SVC is expecting 4"}, status=500))
    with pytest.raises(PlatformError, match="expecting 4"):
        kserve(stub.address).predict(FLOWER, call())


@pytest.mark.parametrize("step", [says(b"<html>404", status=404, content_type="text/html"), says(b"", status=404)])
def test_a_404_of_the_ingress_means_an_unknown_model(stub: Stub, step: object) -> None:
    stub.script(PREDICT, step)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputs, match="does not know this model"):
        kserve(stub.address).predict(FLOWER, call())


def test_the_upload_webhook_is_ours_alone(stub: Stub) -> None:
    asked = Prediction("iris", {"x": 1, "upload_webhook": "http://evil"}, upload_webhook="http://agent/u/t/upload")
    stub.script(PREDICT, answers({}))
    stub.script(K8S.route, answers({}))
    kserve(stub.address).predict(asked, call())
    k8s(stub.address).predict(asked, call())
    assert stub.received[0].json["upload_webhook"] == "http://agent/u/t/upload"
    assert stub.received[1].json["inputs"]["upload_webhook"] == "http://agent/u/t/upload"


@pytest.mark.parametrize(("version", "route"), [("0.10.2", GENERATE), ("0.13.1", PREDICT)])
def test_a_stream_is_requested_from_the_version_that_serves_it(stub: Stub, version: str, route: str) -> None:
    stub.script(route, streams(line(0), line(1)))
    chunks = list(kserve(stub.address, version=version).stream(FLOWER, call()))
    assert chunks == [Chunk(0, "tok0"), Chunk(1, "tok1")]


def test_each_chunk_is_forwarded_at_once(stub: Stub) -> None:
    stub.script(PREDICT, streams(line(0), b"", line(1)))
    stream = kserve(stub.address).stream(FLOWER, call())
    assert next(stream).data == "tok0"  # the stub sends no more until the gate opens
    stub.gate.set()
    assert texts(list(stream)) == ["tok1"]


def test_lines_are_put_together_however_they_are_cut(stub: Stub) -> None:
    whole = line(0) + line(1) + '{"id": 2, "data": "ü"}\r\n'.encode() + b"\n" + b'{"id": 3, "data": "end"}'
    stub.script(PREDICT, streams(*(whole[at : at + 1] for at in range(len(whole)))))
    assert texts(list(kserve(stub.address).stream(FLOWER, call()))) == ["tok0", "tok1", "ü", "end"]


@pytest.mark.parametrize(
    "odd", ["a token", '{"data": "no id"}', '{"id": "x", "data": "y"}', '{"id": true, "data": "y"}']
)
def test_a_line_of_another_shape_is_passed_on_as_text(stub: Stub, odd: str) -> None:
    stub.script(PREDICT, streams(line(0), odd.encode() + b"\n", line(5)))
    assert list(kserve(stub.address).stream(FLOWER, call())) == [Chunk(0, "tok0"), Chunk(1, odd), Chunk(5, "tok5")]


def test_a_whole_json_answer_is_one_chunk(stub: Stub) -> None:
    stub.script(PREDICT, says(b'{\n  "predictions": [1]\n}\n', content_type="application/json; charset=utf-8"))
    assert texts(list(kserve(stub.address).stream(FLOWER, call()))) == ['{\n  "predictions": [1]\n}']


@pytest.mark.parametrize("ends", ["between lines", "within a line"])
def test_a_stream_that_dies_is_an_error_after_its_chunks(stub: Stub, ends: str) -> None:
    stub.script(PREDICT, streams(line(0), *([b'{"id": 1'] if ends == "within a line" else []), ends=False))
    stream = kserve(stub.address).stream(FLOWER, call())
    assert next(stream).data == "tok0"
    with pytest.raises(PlatformError, match="broke off"):
        next(stream)
    assert stub.count(PREDICT) == 1


def test_a_refused_stream_tells_why_at_its_first_chunk(stub: Stub) -> None:
    stub.script(PREDICT, answers({"error": "no such model"}, status=404))
    with pytest.raises(InvalidInputs, match="no such model"):
        next(kserve(stub.address).stream(FLOWER, call()))


def test_a_stream_is_requested_again_from_a_busy_platform(stub: Stub) -> None:
    stub.script(PREDICT, says(b"", status=503), streams(line(0)))
    assert texts(list(kserve(stub.address).stream(FLOWER, call()))) == ["tok0"]
    assert stub.count(PREDICT) == 2


def test_a_web_page_is_no_stream(stub: Stub) -> None:
    stub.script(PREDICT, says(b"<html>\n<p>Sign in\n", content_type="text/html"))
    with pytest.raises(PlatformError, match="web page"):
        next(kserve(stub.address).stream(FLOWER, call()))


def test_closing_a_stream_closes_its_connection_at_once(stub: Stub) -> None:
    stub.script(PREDICT, streams_until_hung_up(line(0)))
    stream = kserve(stub.address).stream(FLOWER, call())
    next(stream)
    stream.close()
    assert stub.hung_up.wait(5)


def test_stopping_the_call_ends_a_stream_that_waits(stub: Stub) -> None:
    stub.script(PREDICT, streams_until_hung_up(line(0)))
    canceled = call(60)
    stream = kserve(stub.address, timeout=60).stream(FLOWER, canceled)
    next(stream)
    later(0.05, lambda: canceled.stop(StopReason.CANCELED))
    with pytest.raises(CallStopped):
        next(stream)
    assert stub.hung_up.wait(5)


def test_a_stopped_stream_forwards_nothing_more(stub: Stub) -> None:
    stub.script(PREDICT, streams(line(0) + line(1) + line(2)))
    canceled = call()
    stream = kserve(stub.address).stream(FLOWER, canceled)
    next(stream)
    canceled.stop(StopReason.CANCELED)
    with pytest.raises(CallStopped):
        next(stream)


def test_a_stream_ends_at_the_deadline_however_it_drips(stub: Stub) -> None:
    stub.script(PREDICT, drips(head(200), line(0)))
    with pytest.raises(PlatformTimeout):
        list(kserve(stub.address, timeout=0.3).stream(FLOWER, call()))


def test_a_line_without_end_is_an_error(stub: Stub) -> None:
    stub.script(PREDICT, streams(*[b"x" * 65536] * 40))
    with pytest.raises(PlatformError, match="too long"):
        list(kserve(stub.address).stream(FLOWER, call()))


def test_docs_are_returned(stub: Stub) -> None:
    described = {"repeat": {"default": 3, "type": "int"}}
    stub.script(DOCS, answers(described))
    stub.script("GET /v1/docs", answers(described))
    assert kserve(stub.address).docs("iris", call()) == described
    assert k8s(stub.address).docs("iris", call()) == described
    assert stub.received[0].headers["host"] == "iris.default.example.com"
    assert stub.received[1].json == {"model_name": "iris"}


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_without_docs_is_unsupported(stub: Stub, status: int) -> None:
    for route in (DOCS, "GET /v1/docs"):
        stub.script(route, says(b"<html>no", status=status, content_type="text/html"))
    for platform in (kserve(stub.address), k8s(stub.address)):
        with pytest.raises(Unsupported, match="does not describe its inputs"):
            platform.docs("iris", call())


@pytest.mark.parametrize(
    "step", [says(b"<html>hello", content_type="text/html"), says(b"<!doctype html>"), says(b"words"), answers("words")]
)
def test_docs_that_describe_nothing_are_an_error(stub: Stub, step: object) -> None:
    for route in (DOCS, "GET /v1/docs"):
        stub.script(route, step)  # type: ignore[arg-type]
    for platform in (kserve(stub.address), k8s(stub.address)):
        with pytest.raises(PlatformError) as error:
            platform.docs("iris", call())
        assert not isinstance(error.value, Unsupported)
