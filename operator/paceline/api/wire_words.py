"""Words that the documents of :mod:`paceline.api.wire` use, which hands them on: import them from there."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What an engine is used for. Every engine can do both; the role says where the router sends what."""

    PREFILL = "prefill"
    DECODE = "decode"
    BOTH = "both"


class EngineState(StrEnum):
    """Whether the router may send work to an engine."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class ConnectorKind(StrEnum):
    """How KV blocks move between engines."""

    NONE = "None"
    NIXL = "Nixl"


class SharedTierKind(StrEnum):
    """Which system holds the KV tier that engines share."""

    LMCACHE = "LMCache"
    MOONCAKE = "Mooncake"


class SourceKind(StrEnum):
    """Where an engine finds the weights."""

    HUGGING_FACE = "HuggingFace"
    LOCAL = "Local"


class WatchMode(StrEnum):
    """What follows when an engine stands out among its siblings."""

    OFF = "Off"
    WATCH = "Watch"
    """It is told: log, metrics, status."""
    ACT = "Act"
    """It gets no more work for a while, too."""
