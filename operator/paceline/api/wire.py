"""Documents that cross a process boundary: operator or local runtime -> engine worker and router.

They are JSON with camelCase keys, decoded strictly by msgspec: an unknown key, a wrong type or a number out of range
is a :class:`~paceline.errors.ConfigError` that names the field. Durations and sizes carry their unit in the name.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from paceline.api.wire_words import ConnectorKind as ConnectorKind
from paceline.api.wire_words import EngineState as EngineState
from paceline.api.wire_words import Role as Role
from paceline.api.wire_words import SharedTierKind as SharedTierKind
from paceline.api.wire_words import SourceKind as SourceKind
from paceline.api.wire_words import WatchMode as WatchMode
from paceline.errors import ConfigError
from paceline.unreadable import UNREADABLE

Port = Annotated[int, Meta(ge=1, le=65535)]
Positive = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[int, Meta(ge=0)]
Percent = Annotated[int, Meta(ge=1, le=100)]


class _Wire(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of the documents. Each repeats ``frozen`` and ``kw_only``: type checkers don't see them inherited."""


class EngineEndpoint(_Wire, frozen=True, kw_only=True):
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


class Fleet(_Wire, frozen=True, kw_only=True):
    """All engines of one deployment. The local runtime writes it to a file, atomically; in a cluster pods say it."""

    version: NonNegative
    """Grows with every change."""
    engines: tuple[EngineEndpoint, ...] = ()


class LoraAdapter(_Wire, frozen=True, kw_only=True):
    """A LoRA adapter that an engine loads at start."""

    name: str
    path: str


class ModelSource(_Wire, frozen=True, kw_only=True):
    """Where the weights are: a Hugging Face repository or a folder that is mounted into the pod."""

    kind: SourceKind
    reference: str
    revision: str | None = None


class Parallelism(_Wire, frozen=True, kw_only=True):
    """How one engine is spread over accelerators. It spans ``nodes`` pods; see vLLM's flags of the same names."""

    tensor: Positive = 1
    pipeline: Positive = 1
    data: Positive = 1
    expert: bool = False
    nodes: Positive = 1


class SharedTier(_Wire, frozen=True, kw_only=True):
    """A KV tier that all engines share."""

    kind: SharedTierKind
    endpoint: str


class KvCache(_Wire, frozen=True, kw_only=True):
    """Where an engine keeps KV blocks. Sizes in GiB per engine; 0 turns a tier off."""

    gpu_memory_percent: Percent = 90
    block_size: Positive | None = None
    """Tokens a block; None leaves it to vLLM."""
    host_gib: NonNegative = 0
    disk_gib: NonNegative = 0
    disk_path: str = "/var/lib/paceline/kv"
    shared: SharedTier | None = None


class Accelerators(_Wire, frozen=True, kw_only=True):
    """Accelerators of one engine pod. ``count`` 0 means CPU."""

    product: str = ""
    count: NonNegative = 0


class EnginePorts(_Wire, frozen=True, kw_only=True):
    """Ports of an engine pod. Data-parallel rank r adds r to ``kv_side_channel``, ``kv_events`` and ``kv_replay``."""

    api: Port = 8000
    admin: Port = 8080
    kv_side_channel: Port = 5600
    kv_events: Port = 20080
    kv_replay: Port = 21080


class EngineTls(_Wire, frozen=True, kw_only=True):
    """An engine's API over HTTPS."""

    folder: str
    """Has ``tls.crt``, ``tls.key`` and ``ca.crt``, whose authority signs every certificate of the deployment."""
    server_name: str
    """In its certificate."""
    client_certificates: bool = False
    """Whether clients need a certificate."""


class RouterTls(_Wire, frozen=True, kw_only=True):
    """The routers' API over HTTPS."""

    folder: str
    """Has ``tls.crt`` and ``tls.key``."""
    client_ca_folder: str | None = None
    """Has ``ca.crt``: clients need a certificate of it."""


class RouterToEngineTls(_Wire, frozen=True, kw_only=True):
    """How routers ask engines over HTTPS."""

    ca_folder: str
    """Has ``ca.crt``."""
    server_name: str
    client_folder: str | None = None
    """Has ``tls.crt`` and ``tls.key``, which a router shows to engines."""


class EngineConfig(_Wire, frozen=True, kw_only=True):
    """Everything an engine worker needs to know. The pod's name and address come from its environment."""

    deployment: str
    namespace: str
    model: str
    """Model name, as in ``spec.model.name``."""
    served_names: Annotated[tuple[str, ...], Meta(min_length=1)]
    """Names that clients use; the first is the one in responses."""
    source: ModelSource
    max_model_len: Positive | None = None
    lora_adapters: tuple[LoraAdapter, ...] = ()
    parallelism: Parallelism = msgspec.field(default_factory=Parallelism)
    kv_cache: KvCache = msgspec.field(default_factory=KvCache)
    connector: ConnectorKind = ConnectorKind.NIXL
    accelerators: Accelerators = msgspec.field(default_factory=Accelerators)
    ports: EnginePorts = msgspec.field(default_factory=EnginePorts)
    kv_events: bool = True
    tls: EngineTls | None = None
    extra_args: tuple[str, ...] = ()
    """Appended to vLLM's arguments as they are; the last one wins."""
    start_deadline_seconds: Positive = 1800
    stall_seconds: Positive = 60
    """How long it may run requests and do no step before it gets no new work; after three times that it ends."""
    drain_seconds: NonNegative = 300
    """How long SIGTERM waits for work in flight."""


class Objective(_Wire, frozen=True, kw_only=True):
    """A latency objective: ``target_percent`` of requests within both limits. ITL is a request's mean."""

    ttft_milliseconds: Positive
    itl_milliseconds: Positive
    target_percent: Percent = 95


class RequestClass(_Wire, frozen=True, kw_only=True):
    """A named class of requests with an objective of its own. Higher ``priority`` goes first."""

    name: str
    priority: int
    objective: Objective
    reasoning_tokens: NonNegative | None = None
    """Most in one request."""


class Late(StrEnum):
    """What becomes of requests that can't meet their TTFT any more."""

    SERVE = "Serve"
    LIMIT = "Limit"
    REFUSE = "Refuse"


class Admission(_Wire, frozen=True, kw_only=True):
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


class Timeouts(_Wire, frozen=True, kw_only=True):
    """Upstream limits of the router, in milliseconds."""

    connect_milliseconds: Positive = 2_000
    first_byte_milliseconds: Positive = 600_000
    idle_milliseconds: Positive = 120_000
    """Longest pause within a stream."""
    answer_seconds: Positive = 14_400
    """Longest life of one answer, from its arrival to its last byte."""


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


class PlacementWeights(_Wire, frozen=True, kw_only=True):
    """What counts when an engine is chosen, in percent."""

    load_percent: NonNegative = 100
    cache_percent: NonNegative = 100
    host_hit_percent: NonNegative = 80
    disk_hit_percent: NonNegative = 40
    shared_hit_percent: NonNegative = 40


class ColdWarmSplit(_Wire, frozen=True, kw_only=True):
    """``cold_tokens``: uncached tokens from which a prompt is cold; mode Auto finds them itself."""

    mode: SplitMode = SplitMode.DISABLED
    cold_tokens: Positive | None = None


class Sessions(_Wire, frozen=True, kw_only=True):
    """Follow-up turns of a conversation."""

    affinity: bool = True
    ttl_seconds: Positive = 1800


class Queue(_Wire, frozen=True, kw_only=True):
    """The order of requests that wait in the router."""

    order: QueueOrder = QueueOrder.DEADLINE
    max_late_seconds: Positive = 60


class Tenant(_Wire, frozen=True, kw_only=True):
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


class Tenancy(_Wire, frozen=True, kw_only=True):
    """Only these may send requests. Their keys are in files, so that they can change while the router runs."""

    tenants: Annotated[tuple[Tenant, ...], Meta(min_length=1)]
    isolate_caches: bool = True
    """Whether a prompt of one is never found in the cache by another."""


class OutputHealth(_Wire, frozen=True, kw_only=True):
    """Whether engines are compared by what they say and how fast."""

    mode: WatchMode = WatchMode.ACT
    slow_engines: WatchMode = WatchMode.ACT
    max_out_percent: Percent = 25
    """Of all engines, that may be without work for it at a time; one always may, while another has its role."""
    hold_seconds: Positive = 30
    """How long one is without work the first time; twice as long each further time, 16 times as long at most."""
    keep_samples: Annotated[int, Meta(ge=0, le=100)] = 0
    """Ends of the last suspicious answers that are kept to be read by a person. 0: none, ever."""


class Hedging(_Wire, frozen=True, kw_only=True):
    """When a second engine is asked, too."""

    after_milliseconds: Positive
    max_percent: Annotated[int, Meta(ge=1, le=50)] = 5
    """Of all requests."""


class RouterConfig(_Wire, frozen=True, kw_only=True):
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
    """Name in :mod:`paceline.policy.scaling.profiles`; None when nothing is known of the hardware."""
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


T = TypeVar("T", bound=_Wire)


def decode(kind: type[T], document: bytes | str, *, source: str) -> T:
    """Read one wire document. ``source`` names it in the ConfigError that bad input raises."""
    try:
        return msgspec.json.decode(document, type=kind)
    except UNREADABLE as error:
        raise ConfigError(f"{source} is not a valid {kind.__name__}: {error}") from None


def encode(document: _Wire) -> bytes:
    """Write one wire document as JSON with sorted keys, so that equal documents are equal bytes."""
    return msgspec.json.encode(document, order="deterministic")
