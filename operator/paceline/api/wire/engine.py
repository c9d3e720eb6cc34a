"""What an engine worker needs to know."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from paceline.api.wire.base import Document, NonNegative, Percent, Port, Positive
from paceline.api.wire.words import ConnectorKind, SharedTierKind, SourceKind


class LoraAdapter(Document, frozen=True, kw_only=True):
    """A LoRA adapter that an engine loads at start."""

    name: str
    path: str


class ModelSource(Document, frozen=True, kw_only=True):
    """Where the weights are: a Hugging Face repository or a folder that is mounted into the pod."""

    kind: SourceKind
    reference: str
    revision: str | None = None


class Parallelism(Document, frozen=True, kw_only=True):
    """How one engine is spread over accelerators. It spans ``nodes`` pods; see vLLM's flags of the same names."""

    tensor: Positive = 1
    pipeline: Positive = 1
    data: Positive = 1
    expert: bool = False
    nodes: Positive = 1


class SharedTier(Document, frozen=True, kw_only=True):
    """A KV tier that all engines share."""

    kind: SharedTierKind
    endpoint: str


class KvCache(Document, frozen=True, kw_only=True):
    """Where an engine keeps KV blocks. Sizes in GiB per engine; 0 turns a tier off."""

    gpu_memory_percent: Percent = 90
    block_size: Positive | None = None
    """Tokens a block; None leaves it to vLLM."""
    host_gib: NonNegative = 0
    disk_gib: NonNegative = 0
    disk_path: str = "/var/lib/paceline/kv"
    shared: SharedTier | None = None


class Accelerators(Document, frozen=True, kw_only=True):
    """Accelerators of one engine pod. ``count`` 0 means CPU."""

    product: str = ""
    count: NonNegative = 0


class EnginePorts(Document, frozen=True, kw_only=True):
    """Ports of an engine pod. Data-parallel rank r adds r to ``kv_side_channel``, ``kv_events`` and ``kv_replay``."""

    api: Port = 8000
    admin: Port = 8080
    kv_side_channel: Port = 5600
    kv_events: Port = 20080
    kv_replay: Port = 21080


class EngineTls(Document, frozen=True, kw_only=True):
    """An engine's API over HTTPS."""

    folder: str
    """Has ``tls.crt``, ``tls.key`` and ``ca.crt``, whose authority signs every certificate of the deployment."""
    server_name: str
    """In its certificate."""
    client_certificates: bool = False
    """Whether clients need a certificate."""


class EngineConfig(Document, frozen=True, kw_only=True):
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
