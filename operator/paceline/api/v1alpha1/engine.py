"""``spec.engine``: how one vLLM engine is run. Read by the builders; pools use ``Parallelism`` too."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from paceline.api.v1alpha1.base import (
    DnsSubdomain,
    EnvName,
    Gibibytes,
    Image,
    Model,
    PodTemplate,
    Seconds,
    SecretKey,
    Toggle,
    named_list,
    plain_list,
)
from paceline.api.wire import ConnectorKind, SharedTierKind

Argument = Annotated[str, Field(min_length=1, max_length=2048)]
Ranks = Annotated[int, Field(ge=1, le=1024)]


class Parallelism(Model):
    """How one engine is spread over accelerators. It uses tensor × pipeline × data of them; the number of pods
    follows from the accelerators that a pod has.
    """

    tensor: Ranks = 1
    """Tensor-parallel ranks."""
    pipeline: Ranks = 1
    """Pipeline stages."""
    data: Ranks = 1
    """Data-parallel ranks."""
    expert: Toggle = Toggle.DISABLED
    """Expert parallelism for mixture-of-experts models, over the tensor and data ranks."""

    @property
    def accelerators(self) -> int:
        """Accelerators that one engine uses."""
        return self.tensor * self.pipeline * self.data


class EnvSource(Model):
    """Where the value of an environment variable comes from."""

    secret_key_ref: SecretKey
    """Key of a Secret in the namespace of the resource."""


class EnvVar(Model):
    """An environment variable of the engine: a value, or a key of a Secret."""

    name: EnvName
    """Name of the variable. Those that Paceline sets itself are refused."""
    value: Annotated[str, Field(max_length=4096)] | None = None
    """Value as it is."""
    value_from: EnvSource | None = None
    """Where the value comes from instead."""


class HostTier(Model):
    """KV blocks in the memory of the host."""

    size_gib: Gibibytes = Field(alias="sizeGiB")
    """Size per engine pod in GiB. Request the memory for it in `podTemplate`."""


class DiskTier(Model):
    """KV blocks on the local disk of the node."""

    size_gib: Gibibytes = Field(alias="sizeGiB")
    """Size per engine pod in GiB."""


class SharedTier(Model):
    """A store of KV blocks that all engines share."""

    type: SharedTierKind
    """System that holds the blocks."""
    endpoint: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\s]+$")]
    """Address of the store, in the system's own notation."""


class KvCache(Model):
    """Where an engine keeps KV blocks, and how large they are."""

    gpu_memory_percent: Annotated[int, Field(ge=1, le=99)] = 90
    """Share of the accelerator's memory that the engine uses for weights, activations and KV blocks together."""
    block_size: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Tokens in a block. Left out, vLLM chooses. On CPUs it is to be a multiple of 32."""
    host_tier: HostTier | None = None
    """Second tier in host memory."""
    disk_tier: DiskTier | None = None
    """Third tier on the node's disk."""
    shared_tier: SharedTier | None = None
    """Tier that all engines share."""


class EngineTls(Model):
    """The engines' API over HTTPS."""

    certificate_secret: DnsSubdomain
    """Secret of type `kubernetes.io/tls` with the engines' certificate, for the name `NAME-engines.NAMESPACE.svc`, and
    in `ca.crt` the authority that signed it.
    """
    client_certificate_secret: DnsSubdomain | None = None
    """Secret with the routers' own certificate, of the same authority. Given, engines take requests only from who has
    one.
    """


class EngineSpec(Model):
    """How one vLLM engine is run."""

    image: Image | None = None
    """Image of the engine. Left out, it is the one that goes with the operator's version."""
    extra_args: Annotated[tuple[Argument, ...], plain_list(at_most=128)] = ()
    """Arguments appended to vLLM's, as they are. Those that other fields stand for are refused."""
    env: Annotated[tuple[EnvVar, ...], named_list("name", at_most=64)] = ()
    """Environment variables of the engine."""
    parallelism: Parallelism = Parallelism()
    """How one engine is spread over accelerators. A pool may say otherwise."""
    kv_cache: KvCache = KvCache()
    """Where KV blocks are kept."""
    tls: EngineTls | None = None
    """The engines' API over HTTPS. Left out, it is plain HTTP."""
    connector: ConnectorKind = ConnectorKind.NIXL
    """How KV blocks move from prefill to decode engines. None is for aggregated pools."""
    start_deadline_seconds: Seconds = 1800
    """How long an engine may take from its start to its first answer. After that it counts as absent and is started
    anew.
    """
    stall_seconds: Annotated[int, Field(ge=5, le=3600)] = 60
    """How long an engine may run requests and do no step before it takes no new work. After three times that it is
    started anew.
    """
    drain_seconds: Annotated[int, Field(ge=0, le=86_400)] = 300
    """How long an engine that is to stop may take to finish what it has begun."""
    pod_template: PodTemplate | None = None
    """Changes to the engine's pods. Its container is called `engine`."""
