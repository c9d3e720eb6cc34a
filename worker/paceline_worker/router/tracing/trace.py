"""What the flow knows of tracing: the parts of a request, and a header for engines. Without tracing it costs a call.

``Routes`` begins and ends the trace of a request; the flow says which of its awaitables is which part. An engine that
is asked during a part continues the trace from there (vLLM does with ``--otlp-traces-endpoint``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Final, Protocol, TypeVar

from prometheus_client.core import Exemplar

from paceline.errors import ConfigError
from paceline_worker.http.message import Request

TRACING_ENV: Final = "PACELINE_TRACING"
TRACE_PARENT: Final = b"traceparent"

T = TypeVar("T")


class Trace:
    """The trace of one request that nobody records."""

    __slots__ = ()

    @property
    def replaces_parent(self) -> bool:
        """Whether engines get a parent of ours instead of the client's."""
        return False

    def during(self, part: str, work: Awaitable[T], **attributes: str) -> Awaitable[T]:  # noqa: ARG002 - nobody records
        """The same work, as a part of the request with that name."""
        return work

    def branch(self) -> Trace:
        """For work that goes on at the same time as other parts of the request."""
        return self

    def tell(self, **attributes: str) -> None:
        """More of the part that is open now."""

    def header(self) -> bytes:
        """A header line for engines that are asked now."""
        return b""

    def exemplar(self, value: float, at: float) -> Exemplar | None:  # noqa: ARG002 - nobody records
        """A pointer from a ``value``, measured ``at`` by the wall clock, to this trace; None where there is none."""
        return None

    def end(self, outcome: str) -> None:
        """The request is over."""


NO_TRACE: Final = Trace()


class Tracer(Protocol):
    """Begins traces."""

    def begin(self, request: Request, request_id: bytes) -> Trace:
        """A request has arrived; its trace goes on where its client's is."""
        ...

    def close(self) -> None:
        """Send what is left. Blocks for a bounded time."""
        ...


class NoTracer:
    """The tracer where tracing is off."""

    def begin(self, request: Request, request_id: bytes) -> Trace:  # noqa: ARG002 - nobody records
        """Nothing is recorded."""
        return NO_TRACE

    def close(self) -> None:
        """Nothing is left."""


def read_tracing(environment: Mapping[str, str]) -> bool:
    """Whether tracing is on. Raises ConfigError."""
    value = environment.get(TRACING_ENV, "off")
    if value not in {"on", "off"}:
        raise ConfigError(f"{TRACING_ENV}: must be on or off, not {value[:80]!r}.")
    return value == "on"


def open_tracer(deployment: str, *, enabled: bool) -> Tracer:
    """Where spans go, and how many, comes from OpenTelemetry's own variables (``OTEL_EXPORTER_OTLP_ENDPOINT``,
    ``OTEL_TRACES_SAMPLER``). Raises ConfigError where its packages are missing.
    """
    if not enabled:
        return NoTracer()
    try:
        from paceline_worker.router.tracing.otel import OpenTelemetryTracer
    except ImportError as error:
        raise ConfigError(
            f"{TRACING_ENV}: on needs OpenTelemetry ({error.name} is missing); install paceline[tracing], or say off."
        ) from None
    return OpenTelemetryTracer.over_otlp(deployment)
