"""What processes need to know of a ModelDeployment: the wire documents of engines and routers, and the engines'
revision.
"""

from __future__ import annotations

from typing import Final

from paceline.api import labels, wire
from paceline.api.v1alpha1 import KvCache, ModelDeployment, Objective, PoolMode, Source, SourceType, Toggle
from paceline.api.v1alpha1.routing import Hedging, OutputHealth, Placement
from paceline.errors import ConfigError
from paceline.policy.resources.common import Images, short_hash
from paceline.policy.resources.pools import HardwarePool, hardware_pools
from paceline.policy.resources.tenants import tenancy
from paceline.policy.resources.tls import engine_tls, router_tls, router_to_engine_tls
from paceline.policy.scaling.profiles import find_profile, profile_of

MODEL_VOLUME_PATH: Final = "/var/lib/paceline/model"
"""Where the volume with the weights is mounted."""
TOKENIZER_PATH: Final = "/var/lib/paceline/tokenizer"
"""Where a router has the tokenizer of a model from the hub."""
BYTE_TOKENS: Final = "bytes"
"""The router's name for the tokens of emulated engines."""
BACKEND_ENV: Final = "PACELINE_ENGINE_BACKEND"
EMULATOR: Final = "emulator"
MEBIBYTE: Final = 1 << 20
DEFAULT_BLOCK_SIZE: Final = 16
"""Tokens a block where the resource names none: vLLM's own default on GPUs."""


def engine_config(md: ModelDeployment, pool: HardwarePool) -> wire.EngineConfig:
    """What an engine of ``pool`` runs."""
    spec = md.spec
    return wire.EngineConfig(
        deployment=md.metadata.name,
        namespace=md.metadata.namespace,
        model=spec.model.name,
        served_names=(spec.model.client_name,),
        source=_source(spec.model.name, spec.model.source),
        max_model_len=spec.model.max_model_len,
        lora_adapters=tuple(wire.LoraAdapter(name=a.name, path=a.path) for a in spec.model.lora_adapters),
        parallelism=wire.Parallelism(
            tensor=pool.parallelism.tensor,
            pipeline=pool.parallelism.pipeline,
            data=pool.parallelism.data,
            expert=pool.parallelism.expert is Toggle.ENABLED,
            nodes=pool.nodes,
        ),
        kv_cache=_kv_cache(spec.engine.kv_cache),
        connector=wire.ConnectorKind.NONE if spec.pools.mode is PoolMode.AGGREGATED else spec.engine.connector,
        accelerators=wire.Accelerators(product=pool.accelerator.product or "", count=pool.accelerator.count),
        tls=engine_tls(md),
        extra_args=spec.engine.extra_args,
        start_deadline_seconds=spec.engine.start_deadline_seconds,
        stall_seconds=spec.engine.stall_seconds,
        drain_seconds=spec.engine.drain_seconds,
    )


def noted_profile(md: ModelDeployment) -> str | None:
    """The engine model that the annotation names, or holds; None without one. Raises ConfigError, which names it."""
    noted = md.metadata.annotations.get(labels.ENGINE_PROFILE)
    if noted is not None:
        profile_of(noted, f"metadata.annotations[{labels.ENGINE_PROFILE}]")
    return noted


def engine_profile(md: ModelDeployment, pool: HardwarePool) -> str | None:
    """The engine model that describes an engine of ``pool``, as :func:`profile_of` takes it: name or text of the
    annotation, or the name of what is known of the hardware. None when nothing is. An annotation that can't be read is
    not followed; the planner says so.
    """
    try:
        noted = noted_profile(md)
    except ConfigError:
        noted = None
    return noted or find_profile(md.spec.model.name, pool.accelerator.product or "", pool.parallelism.tensor)


def emulated(md: ModelDeployment) -> bool:
    """Whether the engines are told to be emulated ones."""
    return any(entry.name == BACKEND_ENV and entry.value == EMULATOR for entry in md.spec.engine.env)


def event_ranks(md: ModelDeployment, pool: HardwarePool) -> int:
    """Data-parallel ranks of an engine that publish their cache events from the pod that takes its requests.

    An emulated engine is one rank, whatever it stands for.
    """
    return 1 if emulated(md) else max(1, pool.parallelism.data // pool.nodes)


def router_config(md: ModelDeployment) -> wire.RouterConfig:
    """What the routers need to know. Raises SpecError for tenants whose terms can't be kept."""
    spec = md.spec
    admission, timeouts = spec.routing.admission, spec.routing.timeouts
    return wire.RouterConfig(
        deployment=md.metadata.name,
        namespace=md.metadata.namespace,
        served_names=(spec.model.client_name,),
        objective=_objective(spec.slo),
        lora_names=tuple(adapter.name for adapter in spec.model.lora_adapters),
        max_model_len=spec.model.max_model_len,
        disaggregated=spec.pools.mode is PoolMode.DISAGGREGATED,
        classes=tuple(
            wire.RequestClass(
                name=entry.name,
                priority=entry.priority,
                objective=_objective(entry),
                reasoning_tokens=entry.reasoning_tokens,
            )
            for entry in spec.slo.classes
        ),
        local_prefill_tokens=spec.routing.local_prefill_tokens,
        # The first pool computes prompts, and that is what the router weighs.
        engine_profile=engine_profile(md, hardware_pools(spec)[0]),
        block_size=spec.engine.kv_cache.block_size or DEFAULT_BLOCK_SIZE,
        tokenizer=_tokenizer(md),
        placement=_placement(spec.routing.placement),
        cold_warm_split=wire.ColdWarmSplit(
            mode=wire.SplitMode(spec.routing.cold_warm_split.mode), cold_tokens=spec.routing.cold_warm_split.cold_tokens
        ),
        sessions=wire.Sessions(
            affinity=spec.routing.sessions.affinity is Toggle.ENABLED, ttl_seconds=spec.routing.sessions.ttl_seconds
        ),
        queue=wire.Queue(
            order=wire.QueueOrder(spec.routing.queue.order), max_late_seconds=spec.routing.queue.max_late_seconds
        ),
        admission=wire.Admission(
            max_queued_requests=admission.max_queued_requests,
            max_queue_seconds=admission.max_queue_seconds,
            max_wake_seconds=spec.engine.start_deadline_seconds if spec.scaling.may_sleep else None,
            max_body_bytes=admission.max_body_bytes,
            max_running_per_engine=admission.max_running_per_engine,
            max_queued_bytes=admission.max_queued_mebibytes * MEBIBYTE,
            late=wire.Late(admission.late),
            hold_for_itl=admission.hold_for_itl is Toggle.ENABLED,
        ),
        timeouts=wire.Timeouts(
            connect_milliseconds=timeouts.connect_milliseconds,
            first_byte_milliseconds=timeouts.first_byte_milliseconds,
            idle_milliseconds=timeouts.idle_milliseconds,
            answer_seconds=timeouts.answer_seconds,
        ),
        media=wire.Media(spec.routing.media),
        tls=router_tls(md),
        engine_tls=router_to_engine_tls(md),
        output_health=_output_health(spec.routing.output_health),
        hedging=_hedging(spec.routing.hedging),
        tenancy=tenancy(md),
        reasoning_tokens=spec.tenancy.reasoning_tokens,
    )


def _tokenizer(md: ModelDeployment) -> str:
    """Where a router finds the model's tokenizer. A folder that is not there costs exact tokens, no more."""
    if emulated(md):
        return BYTE_TOKENS
    source = _source(md.spec.model.name, md.spec.model.source)
    return TOKENIZER_PATH if source.kind is wire.SourceKind.HUGGING_FACE else source.reference


def revision(md: ModelDeployment, images: Images) -> str:
    """Short hash of what decides whether two engines may exchange KV blocks: the model, and the program that computes
    it.

    Hardware, parallelism, cache sizes and deadlines stay out: prefill and decode on different hardware do exchange
    blocks.
    """
    spec = md.spec
    return short_hash(
        {
            "image": spec.engine.image or images.engine,
            "model": spec.model.model_dump(mode="json", exclude={"served_name"}),
            "extraArgs": spec.engine.extra_args,
            "env": [entry.model_dump(mode="json") for entry in spec.engine.env],
            "blockSize": spec.engine.kv_cache.block_size,
            "connector": spec.engine.connector,
        }
    )


def _source(name: str, source: Source) -> wire.ModelSource:
    if source.type is SourceType.LOCAL and source.local is not None:
        return wire.ModelSource(kind=wire.SourceKind.LOCAL, reference=source.local.path)
    if source.type is SourceType.PERSISTENT_VOLUME_CLAIM and source.persistent_volume_claim is not None:
        folder = source.persistent_volume_claim.path
        reference = f"{MODEL_VOLUME_PATH}/{folder}" if folder else MODEL_VOLUME_PATH
        return wire.ModelSource(kind=wire.SourceKind.LOCAL, reference=reference)
    hub = source.hugging_face
    return wire.ModelSource(
        kind=wire.SourceKind.HUGGING_FACE,
        reference=(hub and hub.repository) or name,
        revision=hub.revision if hub else None,
    )


def _kv_cache(cache: KvCache) -> wire.KvCache:
    shared = cache.shared_tier
    return wire.KvCache(
        gpu_memory_percent=cache.gpu_memory_percent,
        block_size=cache.block_size,
        host_gib=cache.host_tier.size_gib if cache.host_tier else 0,
        disk_gib=cache.disk_tier.size_gib if cache.disk_tier else 0,
        shared=wire.SharedTier(kind=shared.type, endpoint=shared.endpoint) if shared else None,
    )


def _placement(placement: Placement) -> wire.PlacementWeights:
    return wire.PlacementWeights(
        load_percent=placement.load_weight_percent,
        cache_percent=placement.cache_weight_percent,
        host_hit_percent=placement.host_hit_percent,
        disk_hit_percent=placement.disk_hit_percent,
        shared_hit_percent=placement.shared_hit_percent,
    )


def _output_health(health: OutputHealth) -> wire.OutputHealth:
    return wire.OutputHealth(
        mode=wire.WatchMode(health.mode),
        slow_engines=wire.WatchMode(health.slow_engines),
        max_out_percent=health.max_out_percent,
        hold_seconds=health.hold_seconds,
        keep_samples=health.keep_samples,
    )


def _hedging(hedging: Hedging | None) -> wire.Hedging | None:
    if hedging is None:
        return None
    return wire.Hedging(after_milliseconds=hedging.after_milliseconds, max_percent=hedging.max_percent)


def _objective(objective: Objective) -> wire.Objective:
    return wire.Objective(
        ttft_milliseconds=objective.ttft_milliseconds,
        itl_milliseconds=objective.itl_milliseconds,
        target_percent=objective.target_percent,
    )
