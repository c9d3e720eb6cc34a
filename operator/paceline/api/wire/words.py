"""Words that the documents use."""

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


class Late(StrEnum):
    """What becomes of requests that can't meet their TTFT any more."""

    SERVE = "Serve"
    LIMIT = "Limit"
    REFUSE = "Refuse"


class QueueOrder(StrEnum):
    """Which waiting request goes next."""

    DEADLINE = "Deadline"
    ARRIVAL = "Arrival"


class Media(StrEnum):
    """Which media engines may take from a conversation."""

    REFUSE = "Refuse"
    """None that has an address, inline or not."""
    DATA_URLS = "DataUrls"
    """What is inline in the request."""
    ANY = "Any"
    """From wherever the client says: engines connect to it."""


class SplitMode(StrEnum):
    """Whether cold prompts have prefill engines of their own."""

    DISABLED = "Disabled"
    AUTO = "Auto"
    FIXED = "Fixed"
