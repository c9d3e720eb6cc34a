"""What a router needs to know."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from paceline.api.wire.base import Document, NonNegative, Percent, Positive
from paceline.api.wire.words import Late, Media, QueueOrder, SplitMode, WatchMode


class RouterTls(Document, frozen=True, kw_only=True):
    """The routers' API over HTTPS."""

    folder: str
    """Has ``tls.crt`` and ``tls.key``."""
    client_ca_folder: str | None = None
    """Has ``ca.crt``: clients need a certificate of it."""


class RouterToEngineTls(Document, frozen=True, kw_only=True):
    """How routers ask engines over HTTPS."""

    ca_folder: str
    """Has ``ca.crt``."""
    server_name: str
    client_folder: str | None = None
    """Has ``tls.crt`` and ``tls.key``, which a router shows to engines."""


class Objective(Document, frozen=True, kw_only=True):
    """A latency objective: ``target_percent`` of requests within both limits. ITL is a request's mean."""

    ttft_milliseconds: Positive
    itl_milliseconds: Positive
    target_percent: Percent = 95


class RequestClass(Document, frozen=True, kw_only=True):
    """A named class of requests with an objective of its own. Higher ``priority`` goes first."""

    name: str
    priority: int
    objective: Objective
    reasoning_tokens: NonNegative | None = None
    """Most in one request."""


class Admission(Document, frozen=True, kw_only=True):
    """What the router accepts before it answers 429 or 413."""

    max_queued_requests: NonNegative = 10_000
    max_queue_seconds: Positive = 60
    max_wake_seconds: Positive | None = None
    """Longest wait of a request that finds no engine because the deployment sleeps. None: it never sleeps."""
    max_body_bytes: Positive = 32 * 1024 * 1024
    max_running_per_engine: Positive = 256
    max_queued_bytes: Positive = 1024 * 1024 * 1024
    """Of all requests that wait, together."""
    late: Late = Late.LIMIT
    hold_for_itl: bool = True
    """Whether a request waits while one more stream would make every decode engine miss the ITL."""


class Timeouts(Document, frozen=True, kw_only=True):
    """Upstream limits of the router, in milliseconds."""

    connect_milliseconds: Positive = 2_000
    first_byte_milliseconds: Positive = 600_000
    idle_milliseconds: Positive = 120_000
    """Longest pause within a stream."""
    answer_seconds: Positive = 14_400
    """Longest life of one answer, from its arrival to its last byte."""


class PlacementWeights(Document, frozen=True, kw_only=True):
    """What counts when an engine is chosen, in percent."""

    load_percent: NonNegative = 100
    cache_percent: NonNegative = 100
    host_hit_percent: NonNegative = 80
    disk_hit_percent: NonNegative = 40
    shared_hit_percent: NonNegative = 40


class ColdWarmSplit(Document, frozen=True, kw_only=True):
    """``cold_tokens``: uncached tokens from which a prompt is cold; mode Auto finds them itself."""

    mode: SplitMode = SplitMode.DISABLED
    cold_tokens: Positive | None = None


class Sessions(Document, frozen=True, kw_only=True):
    """Follow-up turns of a conversation."""

    affinity: bool = True
    ttl_seconds: Positive = 1800


class Queue(Document, frozen=True, kw_only=True):
    """The order of requests that wait in the router."""

    order: QueueOrder = QueueOrder.DEADLINE
    max_late_seconds: Positive = 60


class Tenant(Document, frozen=True, kw_only=True):
    """Somebody with API keys. Limits are those of one router."""

    name: str
    priority: int = 0
    """Added to that of the request's class."""
    weight: Positive = 1
    """Of its share of the tokens while tenants wait."""
    tokens_per_minute: Positive | None = None
    """Uncached prompt and output together."""
    input_tokens_per_minute: Positive | None = None
    """Uncached."""
    output_tokens_per_minute: Positive | None = None
    max_running_requests: Positive | None = None
    reasoning_tokens: NonNegative | None = None
    """Most in one request."""
    models: tuple[str, ...] = ()
    """Names that it may use; empty: all."""


class Tenancy(Document, frozen=True, kw_only=True):
    """Only these may send requests. Their keys are in files, so that they can change while the router runs."""

    tenants: Annotated[tuple[Tenant, ...], Meta(min_length=1)]
    isolate_caches: bool = True
    """Whether a prompt of one is never found in the cache by another."""


class OutputHealth(Document, frozen=True, kw_only=True):
    """Whether engines are compared by what they say and how fast."""

    mode: WatchMode = WatchMode.ACT
    slow_engines: WatchMode = WatchMode.ACT
    max_out_percent: Percent = 25
    """Of all engines, that may be without work for it at a time; one always may, while another has its role."""
    hold_seconds: Positive = 30
    """How long one is without work the first time; twice as long each further time, 16 times as long at most."""
    keep_samples: Annotated[int, Meta(ge=0, le=100)] = 0
    """Ends of the last suspicious answers that are kept to be read by a person. 0: none, ever."""


class Hedging(Document, frozen=True, kw_only=True):
    """When a second engine is asked, too."""

    after_milliseconds: Positive
    max_percent: Annotated[int, Meta(ge=1, le=50)] = 5
    """Of all requests."""


class RouterConfig(Document, frozen=True, kw_only=True):
    """Everything a router needs to know besides its flags and its fleet."""

    deployment: str
    namespace: str
    served_names: Annotated[tuple[str, ...], Meta(min_length=1)]
    objective: Objective
    lora_names: tuple[str, ...] = ()
    max_model_len: Positive | None = None
    disaggregated: bool = True
    classes: tuple[RequestClass, ...] = ()
    local_prefill_tokens: NonNegative | None = None
    """Prompts with at most this many uncached tokens are computed by the decode engine. None: from the engine model."""
    engine_profile: str | None = None
    """As :func:`paceline.policy.scaling.profiles.profile_of` takes it; None when nothing is known of the hardware."""
    engine_speed: Annotated[float, Meta(gt=0)] = 1.0
    """How much faster engines are than the profile says: emulated ones can be."""
    block_size: Positive = 16
    placement: PlacementWeights = msgspec.field(default_factory=PlacementWeights)
    cold_warm_split: ColdWarmSplit = msgspec.field(default_factory=ColdWarmSplit)
    sessions: Sessions = msgspec.field(default_factory=Sessions)
    queue: Queue = msgspec.field(default_factory=Queue)
    index_entries: Positive = 10_000_000
    """Bound of the prefix index: blocks, counted once for each engine that holds them. About 150 bytes each."""
    tokenizer: str | None = None
    """Where prompts get exact tokens from: a model's folder, or ``bytes`` for emulated engines. None: prompts that are
    text are compared as text.
    """
    admission: Admission = msgspec.field(default_factory=Admission)
    timeouts: Timeouts = msgspec.field(default_factory=Timeouts)
    media: Media = Media.DATA_URLS
    tls: RouterTls | None = None
    engine_tls: RouterToEngineTls | None = None
    output_health: OutputHealth = msgspec.field(default_factory=OutputHealth)
    hedging: Hedging | None = None
    tenancy: Tenancy | None = None
    """None: everybody who reaches the router is served."""
    reasoning_tokens: NonNegative | None = None
    """Most in one request of those who are no tenants."""
