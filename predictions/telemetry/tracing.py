"""OpenTelemetry traces: off until the standard OTEL_* variables ask for them, then one trace from caller to platform.

A trace is carried as W3C `traceparent` text: in the request's header, on the task's row, on the call of the platform.
While tracing is off it is only handed on.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache

from django.conf import settings
from opentelemetry import trace
from opentelemetry.trace import Span as OTelSpan
from opentelemetry.trace import SpanKind as SpanKind
from opentelemetry.trace import Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_current: ContextVar[str] = ContextVar("traceparent", default="")


class Span:
    """One span of a trace. `traceparent` makes it the parent of spans in other processes."""

    def __init__(self, traceparent: str, span: OTelSpan | None = None) -> None:
        self.traceparent = traceparent
        self._span = span

    def __enter__(self) -> "Span":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._span is not None:
            if isinstance(error, Exception):
                self._span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            self._span.end()

    def answered(self, method: str, route: str, status: int) -> None:
        """Adds the request and the answer to the web's span; 5xx is an error."""
        if self._span is None:
            return
        self._span.update_name(f"{method} {route}")
        self._span.set_attributes(
            {"http.request.method": method, "http.route": route, "http.response.status_code": status}
        )
        if status >= 500:
            self._span.set_status(Status(StatusCode.ERROR))


def current() -> str:
    """The traceparent of the request that is being answered; empty where there is none."""
    return _current.get()


@contextmanager
def answering(traceparent: str) -> Iterator[Span]:
    """The web's span, in the trace that the caller's header names or in a new one."""
    given = traceparent if _TRACEPARENT.fullmatch(traceparent) else ""
    with span("request", SpanKind.SERVER, given) as server:
        token = _current.set(server.traceparent)
        try:
            yield server
        finally:
            _current.reset(token)


def span(
    name: str,
    kind: SpanKind,
    parent: str,
    *,
    began_at: datetime | None = None,
    attributes: Mapping[str, str | int] | None = None,
) -> Span:
    """A span below `parent`, to be left as a context; one that raises is an error.

    `began_at`: when it began, where that was before now.
    """
    if not settings.TRACING:
        return Span(parent)
    context = TraceContextTextMapPropagator().extract({"traceparent": parent})
    start_time = int(began_at.timestamp() * 1e9) if began_at else None
    started = _tracer().start_span(name, context, kind, attributes, start_time=start_time)
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(started))
    return Span(carrier.get("traceparent", parent), started)


@lru_cache(maxsize=1)
def _tracer() -> trace.Tracer:
    """Made at the first span, in the process that uses it, for its exporter has a thread; slow to import."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

    provider = TracerProvider(resource=Resource.create({"service.name": settings.TRACING_SERVICE_NAME}))
    to_console = settings.TRACES_EXPORTER == "console"
    provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter() if to_console else OTLPSpanExporter()))
    return provider.get_tracer("serving-agent")
