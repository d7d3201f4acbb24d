"""One trace from the caller through web, queue and worker to the platform, sent to a real OTLP endpoint."""

import signal
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from predictions.models import Task
from tests.helpers.servers import Server
from tests.helpers.stub import Stub, answers
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
BODY = {"model_name": "m", "inputs": {}}


class Collector:
    """Takes OTLP over HTTP and keeps the spans."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()
        self.asked: list[tuple[str, str | None]] = []
        """Path and `x-key` header of each request."""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                told = ExportTraceServiceRequest.FromString(body)
                collector.asked.append((self.path, self.headers["x-key"]))
                for resource in told.resource_spans:
                    names = [pair for pair in resource.resource.attributes if pair.key == "service.name"]
                    collector.services |= {pair.value.string_value for pair in names}
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture
def platform() -> Iterator[Stub]:
    stub = Stub()
    stub.script("POST /v1/predict", answers({"answer": 1}))
    yield stub
    stub.close()


def test_an_async_prediction_is_one_trace_from_caller_to_platform(
    serve: Callable[..., Server], collector: Collector, platform: Stub
) -> None:
    environment = {
        "ML_PLATFORM": "k8s",
        "K8SPLUGIN_ADDRESS": platform.address,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    web = serve("web", **environment)
    serve("worker", **environment)
    answer = requests.post(f"{web.url}/async/v1/predict", json=BODY, headers={"traceparent": TRACEPARENT}, timeout=30)
    assert answer.status_code == 200
    until(lambda: len(collector.spans) >= 4, seconds=60)
    spans = {span.name: span for span in collector.spans}
    assert set(spans) == {"POST /async/v1/predict", "queue", "run task", "k8s prediction"}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    request, run = spans["POST /async/v1/predict"], spans["run task"]
    assert request.parent_span_id.hex() == CALLER
    assert {spans["queue"].parent_span_id, run.parent_span_id} == {request.span_id}
    assert spans["k8s prediction"].parent_span_id == run.span_id
    sent = platform.received[0].headers["traceparent"]
    assert sent == f"00-{TRACE}-{spans['k8s prediction'].span_id.hex()}-01"
    assert Task.objects.get().traceparent.startswith(f"00-{TRACE}-{request.span_id.hex()}")


def test_a_failed_prediction_is_an_error_in_its_trace(
    serve: Callable[..., Server], collector: Collector, platform: Stub
) -> None:
    platform.script("POST /v1/predict", answers({"error": "broken"}, status=500))
    web = serve(
        "web",
        ML_PLATFORM="k8s",
        K8SPLUGIN_ADDRESS=platform.address,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_BSP_SCHEDULE_DELAY="100",
    )
    assert requests.post(f"{web.url}/v1/predict", json=BODY, timeout=30).status_code == 502
    until(lambda: len(collector.spans) >= 2, seconds=60)
    assert {span.name: span.status.code for span in collector.spans} == {
        "POST /v1/predict": 2,
        "k8s prediction": 2,
    }


def test_without_tracing_the_callers_trace_is_still_propagated(
    serve: Callable[..., Server], collector: Collector, platform: Stub
) -> None:
    web = serve("web", ML_PLATFORM="k8s", K8SPLUGIN_ADDRESS=platform.address)
    for header in (TRACEPARENT, "not a trace"):
        answer = requests.post(f"{web.url}/v1/predict", json=BODY, headers={"traceparent": header}, timeout=30)
        assert answer.status_code == 200
    assert [call.headers.get("traceparent") for call in platform.received] == [TRACEPARENT, None]
    assert not collector.spans


def predict(serve: Callable[..., Server], **environment: str) -> Server:
    """A web process that has answered one prediction of a local model."""
    web = serve("web", LOCAL_PREDICTOR="tests.helpers.predictors:predict", OTEL_BSP_SCHEDULE_DELAY="100", **environment)
    assert requests.post(f"{web.url}/v1/predict", json=BODY, timeout=30).status_code == 200
    return web


@pytest.mark.parametrize(
    ("environment", "path", "service"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, "/v1/traces", "serving-agent"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "/mine"}, "/mine", "serving-agent"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "", "OTEL_SERVICE_NAME": "flowers"}, "/v1/traces", "flowers"),
    ],
    ids=["endpoint", "traces endpoint", "service name"],
)
def test_spans_go_where_the_variables_of_opentelemetry_say(
    serve: Callable[..., Server], collector: Collector, environment: dict[str, str], path: str, service: str
) -> None:
    addresses = {name: f"{collector.url}{value}" for name, value in environment.items() if "ENDPOINT" in name}
    predict(serve, **environment | addresses, OTEL_EXPORTER_OTLP_HEADERS="x-key=sesame")
    until(lambda: {span.name for span in collector.spans} == {"POST /v1/predict", "local prediction"})
    assert set(collector.asked) == {(path, "sesame")}
    assert collector.services == {service}


def test_spans_are_printed_where_the_exporter_is_the_console(serve: Callable[..., Server]) -> None:
    web = predict(serve, OTEL_TRACES_EXPORTER="console")
    until(lambda: '"name": "POST /v1/predict"' in web.output())


@pytest.mark.parametrize(
    "switch",
    [
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "console"},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_TRACES_SAMPLER": "always_off"},
    ],
    ids=lambda switch: " ".join(f"{name}={value}" for name, value in switch.items()),
)
def test_no_span_is_made_where_traces_are_switched_off(
    serve: Callable[..., Server], collector: Collector, switch: dict[str, str]
) -> None:
    web = predict(serve, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **switch)
    web.signal(signal.SIGTERM)
    assert web.process.wait(60) == 0  # a process sends its last spans when it exits
    assert not collector.asked
    assert '"name": "POST /v1/predict"' not in web.output()


def test_a_span_has_no_more_attributes_than_the_limit(serve: Callable[..., Server], collector: Collector) -> None:
    predict(serve, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT="1")
    until(lambda: len(collector.spans) == 2)
    assert {len(span.attributes) for span in collector.spans} <= {0, 1}
