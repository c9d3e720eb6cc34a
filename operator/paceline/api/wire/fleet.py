"""The engines of a deployment, for its routers."""

from __future__ import annotations

from paceline.api.wire.base import Document, NonNegative, Port, Positive
from paceline.api.wire.words import EngineState, Role


class EngineEndpoint(Document, frozen=True, kw_only=True):
    """One engine as the router sees it."""

    name: str
    """Pod name; unique within the deployment."""
    host: str
    port: Port
    """Of the engine's OpenAI-compatible API."""
    role: Role
    state: EngineState
    start_id: str
    """Changes when the engine restarts: its cache is empty again."""
    revision: str = ""
    """Engines of different revisions never exchange KV blocks."""
    kv_events: str | None = None
    """ZMQ endpoint of the engine's cache events, ``tcp://host:port``."""
    kv_replay: str | None = None
    tls: bool = False
    """Whether its API is HTTPS."""
    data_parallel: Positive = 1
    """Ranks, each with a cache of its own; rank r publishes its events r ports above ``kv_events``."""
    zone: str = ""
    node: str = ""
    pool: str = ""
    """Of hardware: only engines of one pool are compared by their speed."""


class Fleet(Document, frozen=True, kw_only=True):
    """All engines of one deployment. The local runtime writes it to a file, atomically; in a cluster pods say it."""

    version: NonNegative
    """Grows with every change."""
    engines: tuple[EngineEndpoint, ...] = ()
