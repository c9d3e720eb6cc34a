"""Rules between fields: each written once, as CEL for the API server and as a Python predicate for everything else.

The schema generator puts the CEL into the CRD; :mod:`paceline.api.v1alpha1.load` evaluates the predicates, so that
``paceline up`` refuses what a cluster would refuse, in the same words. A rule belongs to the model whose value is
``self``. Tests hold the twins together: one invalid document per rule that both a real API server and Python must
refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel

from paceline.api.v1alpha1.arguments import MANAGED_ARGUMENTS, MANAGED_SHORT_ARGUMENTS, managed, who_sets
from paceline.api.v1alpha1.engine import EngineSpec, EnvVar
from paceline.api.v1alpha1.model import HuggingFaceSource, ModelSpec, Source, SourceType
from paceline.api.v1alpha1.pools import Accelerator, Pool, PoolMode, Pools, Toleration, TolerationOperator
from paceline.api.v1alpha1.resource import ModelDeploymentSpec
from paceline.api.v1alpha1.routing import ColdWarmSplit, Routing, SplitMode
from paceline.api.v1alpha1.scaling import Forecast, ScaleToZeroPolicy, Scaling, ScalingMode
from paceline.api.v1alpha1.tenancy import Tenancy, TenancyMode
from paceline.api.wire import ConnectorKind

M = TypeVar("M", bound=BaseModel)

RESERVED_ENV: Final = (
    "PACELINE_ENGINE_CONFIG",
    "PACELINE_BIND_HOST",
    "PACELINE_PARENT_FD",
    "POD_NAME",
    "POD_NAMESPACE",
    "POD_IP",
    "LWS_LEADER_ADDRESS",
    "LWS_WORKER_INDEX",
    "LWS_GROUP_SIZE",
)
"""Variables that Paceline sets on engines itself."""


@dataclass(frozen=True, slots=True)
class Rule(Generic[M]):
    """A statement that must hold on every valid value of ``model``."""

    model: type[M]
    cel: str
    """For the API server; ``self`` is the value, static defaults are filled in."""
    message: str
    """What is allowed, and what to do."""
    holds: Callable[[M], bool]
    """The same for Python."""
    field: str = ""
    """Field that the message is about, below the value; dots between levels."""
    found: Callable[[M], str] | None = None
    """The offending values in a few words, for messages of Python."""


@dataclass(frozen=True, slots=True)
class UpdateRule(Generic[M]):
    """A statement that must hold between a value and the one it replaces."""

    model: type[M]
    cel: str
    message: str
    holds: Callable[[M, M], bool]
    """Of the new and the old value."""
    field: str = ""
    found: Callable[[M], str] | None = None


def _no_address(model: type[M], field: str, value: Callable[[M], str | None]) -> Rule[M]:
    return Rule(
        model,
        cel=f"!has(self.{field}) || !self.{field}.contains('://')",
        message="must be the model's name, such as Qwen/Qwen3-32B, not an address",
        holds=lambda model: "://" not in (value(model) or ""),
        field=field,
        found=lambda model: str(value(model)),
    )


def _given(value: object) -> str:
    return "left out" if value is None else "given"


def _source(name: str, kind: SourceType, value: Callable[[Source], object]) -> Rule[Source]:
    return Rule(
        Source,
        cel=f"(self.type == '{kind}') == has(self.{name})",
        message=f"must be given with type {kind}, and only then",
        holds=lambda source: (source.type is kind) == (value(source) is not None),
        field=name,
        found=lambda source: f"type {source.type}, {_given(value(source))}",
    )


def _role(name: str, mode: PoolMode, value: Callable[[Pools], Pool | None]) -> Rule[Pools]:
    return Rule(
        Pools,
        cel=f"(self.mode == '{mode}') == has(self.{name})",
        message=f"must be given with mode {mode}, and only then",
        holds=lambda pools: (pools.mode is mode) == (value(pools) is not None),
        field=name,
        found=lambda pools: f"mode {pools.mode}, {_given(value(pools))}",
    )


def _cel_accelerators(pool: str) -> str:
    own, shared = f"self.pools.{pool}.parallelism", "self.engine.parallelism"
    return (
        f"(has({own}) ? {own}.tensor * {own}.pipeline * {own}.data"
        f" : {shared}.tensor * {shared}.pipeline * {shared}.data)"
    )


def _whole_pods(name: str, value: Callable[[Pools], Pool | None]) -> Rule[ModelDeploymentSpec]:
    count = f"self.pools.{name}.accelerator.count"

    def holds(spec: ModelDeploymentSpec) -> bool:
        pool = value(spec.pools)
        return pool is None or not pool.accelerator.count or spec.accelerators_of(pool) % pool.accelerator.count == 0

    def found(spec: ModelDeploymentSpec) -> str:
        pool = value(spec.pools)
        return (
            ""
            if pool is None
            else f"{spec.accelerators_of(pool)} accelerators an engine, {pool.accelerator.count} a pod"
        )

    return Rule(
        ModelDeploymentSpec,
        cel=f"!has(self.pools.{name}) || {count} == 0 || {_cel_accelerators(name)} % {count} == 0",
        message="tensor × pipeline × data must be accelerator.count or a multiple of it: an engine takes whole pods",
        holds=holds,
        field=f"pools.{name}.accelerator.count",
        found=found,
    )


def _smallest(spec: ModelDeploymentSpec) -> int:
    pools = (spec.pools.prefill, spec.pools.decode, spec.pools.aggregated)
    return sum(pool.min_replicas * spec.accelerators_of(pool) for pool in pools if pool is not None)


def _cel_smallest() -> str:
    terms = (
        f"(has(self.pools.{name}) && self.pools.{name}.accelerator.count > 0"
        f" ? self.pools.{name}.minReplicas * {_cel_accelerators(name)} : 0)"
        for name in ("prefill", "decode", "aggregated")
    )
    return " + ".join(terms)


RULES: Final[tuple[Rule[Any], ...]] = (
    _no_address(ModelSpec, "name", lambda model: model.name),
    _no_address(HuggingFaceSource, "repository", lambda source: source.repository),
    Rule(
        Source,
        cel="self.type == 'HuggingFace' || !has(self.huggingFace)",
        message="is for type HuggingFace only",
        holds=lambda source: source.type is SourceType.HUGGING_FACE or source.hugging_face is None,
        field="huggingFace",
        found=lambda source: f"type {source.type}",
    ),
    _source("persistentVolumeClaim", SourceType.PERSISTENT_VOLUME_CLAIM, lambda source: source.persistent_volume_claim),
    _source("local", SourceType.LOCAL, lambda source: source.local),
    Rule(
        ModelSpec,
        cel=(
            "!has(self.loraAdapters)"
            " || !self.loraAdapters.exists(a, a.name == (has(self.servedName) ? self.servedName : self.name))"
        ),
        message="an adapter can't have the name that clients use for the model itself",
        holds=lambda model: model.client_name not in [adapter.name for adapter in model.lora_adapters],
        field="loraAdapters",
        found=lambda model: model.client_name,
    ),
    Rule(
        EnvVar,
        cel="has(self.value) != has(self.valueFrom)",
        message="needs either value or valueFrom",
        holds=lambda env: (env.value is None) != (env.value_from is None),
        found=lambda env: "neither" if env.value is None else "both",
    ),
    Rule(
        EnvVar,
        cel=f"!(self.name in [{', '.join(repr(name) for name in RESERVED_ENV)}])",
        message=f"is set by Paceline itself; reserved are {', '.join(RESERVED_ENV)}",
        holds=lambda env: env.name not in RESERVED_ENV,
        field="name",
        found=lambda env: env.name,
    ),
    Rule(
        EngineSpec,
        cel=(
            "!has(self.extraArgs) || !self.extraArgs.exists(a, a.replace('_', '-')"
            f".matches('^(--({'|'.join(MANAGED_ARGUMENTS)})|-({'|'.join(MANAGED_SHORT_ARGUMENTS)}))(=|$)'))"
        ),
        message=f"these arguments follow from other fields; leave out --{', --'.join(MANAGED_ARGUMENTS)}",
        holds=lambda engine: not any(map(managed, engine.extra_args)),
        field="extraArgs",
        found=lambda engine: who_sets(engine.extra_args),
    ),
    Rule(
        Accelerator,
        cel="self.count > 0 || !has(self.product)",
        message="is for accelerators; leave it out where count is 0, which means CPUs",
        holds=lambda accelerator: accelerator.count > 0 or accelerator.product is None,
        field="product",
        found=lambda accelerator: str(accelerator.product),
    ),
    Rule(
        Toleration,
        cel="self.operator != 'Exists' || !has(self.value)",
        message="must be left out with operator Exists",
        holds=lambda toleration: toleration.operator is not TolerationOperator.EXISTS or toleration.value is None,
        field="value",
        found=lambda toleration: str(toleration.value),
    ),
    Rule(
        Toleration,
        cel="has(self.key) || self.operator == 'Exists'",
        message="is needed, unless operator is Exists",
        holds=lambda toleration: toleration.key is not None or toleration.operator is TolerationOperator.EXISTS,
        field="key",
    ),
    Rule(
        Toleration,
        cel="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
        message="is for effect NoExecute only",
        holds=lambda toleration: toleration.toleration_seconds is None or toleration.effect == "NoExecute",
        field="tolerationSeconds",
        found=lambda toleration: f"effect {toleration.effect or 'left out'}",
    ),
    Rule(
        Pool,
        cel="self.minReplicas <= self.maxReplicas",
        message="must be at most maxReplicas",
        holds=lambda pool: pool.min_replicas <= pool.max_replicas,
        field="minReplicas",
        found=lambda pool: f"minReplicas {pool.min_replicas}, maxReplicas {pool.max_replicas}",
    ),
    _role("prefill", PoolMode.DISAGGREGATED, lambda pools: pools.prefill),
    _role("decode", PoolMode.DISAGGREGATED, lambda pools: pools.decode),
    _role("aggregated", PoolMode.AGGREGATED, lambda pools: pools.aggregated),
    _whole_pods("prefill", lambda pools: pools.prefill),
    _whole_pods("decode", lambda pools: pools.decode),
    _whole_pods("aggregated", lambda pools: pools.aggregated),
    Rule(
        ModelDeploymentSpec,
        cel="self.engine.connector != 'None' || self.pools.mode == 'Aggregated'",
        message="None can't move KV blocks from prefill to decode; use Nixl, or pools.mode Aggregated",
        holds=lambda spec: spec.engine.connector is not ConnectorKind.NONE or spec.pools.mode is PoolMode.AGGREGATED,
        field="engine.connector",
        found=lambda spec: str(spec.engine.connector),
    ),
    Rule(
        ModelDeploymentSpec,
        cel=f"!has(self.scaling.gpuBudget) || {_cel_smallest()} <= self.scaling.gpuBudget",
        message="must be enough for minReplicas engines of every role, each of tensor × pipeline × data accelerators",
        holds=lambda spec: spec.scaling.gpu_budget is None or _smallest(spec) <= spec.scaling.gpu_budget,
        field="scaling.gpuBudget",
        found=lambda spec: f"{spec.scaling.gpu_budget}, needed are {_smallest(spec)}",
    ),
    Rule(
        Forecast,
        cel="self.minHorizonSeconds <= self.maxHorizonSeconds",
        message="must be at most maxHorizonSeconds",
        holds=lambda forecast: forecast.min_horizon_seconds <= forecast.max_horizon_seconds,
        field="minHorizonSeconds",
        found=lambda forecast: f"{forecast.min_horizon_seconds}, maxHorizonSeconds {forecast.max_horizon_seconds}",
    ),
    Rule(
        Scaling,
        cel="self.mode == 'Auto' || self.scaleToZero.policy == 'Never'",
        message="WhenIdle needs scaling.mode Auto",
        holds=lambda scaling: (
            scaling.mode is ScalingMode.AUTO or scaling.scale_to_zero.policy is ScaleToZeroPolicy.NEVER
        ),
        field="scaleToZero.policy",
        found=lambda scaling: f"mode {scaling.mode}",
    ),
    Rule(
        ColdWarmSplit,
        cel="(self.mode == 'Fixed') == has(self.coldTokens)",
        message="must be given with mode Fixed, and only then",
        holds=lambda split: (split.mode is SplitMode.FIXED) == (split.cold_tokens is not None),
        field="coldTokens",
        found=lambda split: f"mode {split.mode}",
    ),
    Rule(
        ModelDeploymentSpec,
        cel="self.routing.coldWarmSplit.mode == 'Disabled' || self.pools.mode == 'Disaggregated'",
        message="splits prefill engines, so it needs pools.mode Disaggregated",
        holds=lambda spec: (
            spec.routing.cold_warm_split.mode is SplitMode.DISABLED or spec.pools.mode is PoolMode.DISAGGREGATED
        ),
        field="routing.coldWarmSplit.mode",
        found=lambda spec: str(spec.routing.cold_warm_split.mode),
    ),
    Rule(
        Routing,
        cel="!has(self.hedging) || self.hedging.afterMilliseconds < self.timeouts.firstByteMilliseconds",
        message="must be below timeouts.firstByteMilliseconds, after which the first engine is given up",
        holds=lambda routing: (
            routing.hedging is None or routing.hedging.after_milliseconds < routing.timeouts.first_byte_milliseconds
        ),
        field="hedging.afterMilliseconds",
        found=lambda routing: f"firstByteMilliseconds {routing.timeouts.first_byte_milliseconds}",
    ),
    Rule(
        Tenancy,
        cel="(self.mode == 'ApiKeys') == (has(self.tenants) && size(self.tenants) > 0)",
        message="must be given with mode ApiKeys, and only then",
        holds=lambda tenancy: (tenancy.mode is TenancyMode.API_KEYS) == bool(tenancy.tenants),
        field="tenants",
        found=lambda tenancy: f"mode {tenancy.mode}, {len(tenancy.tenants)} tenants",
    ),
)

UPDATE_RULES: Final[tuple[UpdateRule[Any], ...]] = (
    UpdateRule(
        ModelSpec,
        cel="self.name == oldSelf.name",
        message="can't be changed: make another ModelDeployment for another model",
        holds=lambda new, old: new.name == old.name,
        field="name",
        found=lambda new: new.name,
    ),
    UpdateRule(
        Pools,
        cel="self.mode == oldSelf.mode",
        message="can't be changed: make another ModelDeployment and move the traffic over",
        holds=lambda new, old: new.mode == old.mode,
        field="mode",
        found=lambda new: new.mode,
    ),
)


def rules_of(model: type[BaseModel]) -> Iterator[Rule[Any] | UpdateRule[Any]]:
    """Every rule on values of ``model``, in the order of the tables."""
    yield from (rule for rule in RULES if rule.model is model)
    yield from (rule for rule in UPDATE_RULES if rule.model is model)
