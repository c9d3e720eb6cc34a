"""Spans with OpenTelemetry. Imported by :func:`paceline_worker.router.tracing.trace.open_tracer`, where it is on."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, TypeVar

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context, use_span
from opentelemetry.trace import Tracer as SpanTracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client.core import Exemplar

from paceline import __version__
from paceline_worker.http.message import Request
from paceline_worker.router.tracing.trace import Trace

SERVICE: Final = "paceline-router"
FLUSH_MILLISECONDS: Final = 5_000
FAILED: Final = frozenset({"upstream_error", "internal_error", "broken", "rejected"})
"""Outcomes of requests whose span is an error: those of the client are not."""
_CONTEXT: Final = TraceContextTextMapPropagator()

T = TypeVar("T")


class OpenTelemetryTracer:
    """Begins a span for each request."""

    def __init__(self, deployment: str, processor: SpanProcessor) -> None:
        resource = Resource.create(
            {SERVICE_NAME: SERVICE, SERVICE_VERSION: __version__, "paceline.deployment": deployment}
        )
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("paceline", __version__)

    @classmethod
    def over_otlp(cls, deployment: str) -> OpenTelemetryTracer:
        """Spans go to a collector over HTTP, in batches and on a thread of their own; a full queue drops the newest."""
        return cls(deployment, BatchSpanProcessor(OTLPSpanExporter()))

    def begin(self, request: Request, request_id: bytes) -> Trace:
        """The client's ``traceparent``, where it sent a good one, is the parent."""
        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in request.headers
            if name in (b"traceparent", b"tracestate")
        }
        span = self._tracer.start_span(
            f"{request.method} {request.path}",
            context=_CONTEXT.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": request.method,
                "url.path": request.path,
                "paceline.request_id": request_id.decode("latin-1"),
            },
        )
        return RecordedTrace(self._tracer, span)

    def close(self) -> None:
        """Send what is left, for a few seconds at most."""
        self._provider.force_flush(FLUSH_MILLISECONDS)
        self._provider.shutdown()


class RecordedTrace(Trace):
    """One request's span, and those of its parts. Parts follow or contain one another; those of branches overlap."""

    __slots__ = ("_open", "_tracer")

    def __init__(self, tracer: SpanTracer, span: Span) -> None:
        """``span``: the one that parts are children of."""
        self._tracer = tracer
        self._open = [span]

    @property
    def replaces_parent(self) -> bool:
        """Engines continue here, not at the client's span."""
        return True

    async def during(self, part: str, work: Awaitable[T], **attributes: str) -> T:
        """A child of the part that is open now, until ``work`` has ended."""
        span = self._tracer.start_span(
            part,
            context=set_span_in_context(self._open[-1]),
            kind=SpanKind.CLIENT if "engine" in attributes else SpanKind.INTERNAL,
            attributes={f"paceline.{name}": value for name, value in attributes.items()},
        )
        self._open.append(span)
        try:
            with use_span(span, end_on_exit=True, record_exception=False):
                return await work
        finally:
            self._open.pop()

    def branch(self) -> Trace:
        """See :class:`Trace`."""
        return RecordedTrace(self._tracer, self._open[-1])

    def tell(self, **attributes: str) -> None:
        """See :class:`Trace`."""
        self._open[-1].set_attributes({f"paceline.{name}": value for name, value in attributes.items()})

    def header(self) -> bytes:
        """``traceparent`` of the part that is open now."""
        context = self._open[-1].get_span_context()
        return b"traceparent: 00-%032x-%016x-%02x\r\n" % (context.trace_id, context.span_id, context.trace_flags)

    def exemplar(self, value: float, at: float) -> Exemplar | None:
        """See :class:`Trace`. A trace that is not sampled is nowhere to be found."""
        context = self._open[0].get_span_context()
        if not context.trace_flags.sampled:
            return None
        return Exemplar({"trace_id": f"{context.trace_id:032x}"}, value, at)

    def end(self, outcome: str) -> None:
        """Refused and failed requests are errors; wrong ones and those given up are not."""
        span = self._open[0]
        span.set_attribute("paceline.outcome", outcome)
        if outcome in FAILED:
            span.set_status(StatusCode.ERROR, outcome)
        span.end()
