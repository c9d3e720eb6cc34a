"""From a ModelDeployment to what is simulated: the same fields that the operator, the router and the planner read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from paceline.api.v1alpha1 import ModelDeployment
from paceline.api.v1alpha1.base import Toggle
from paceline.api.v1alpha1.pools import PoolMode
from paceline.api.v1alpha1.routing import QueueOrder
from paceline.api.v1alpha1.scaling import ScaleToZeroPolicy, WindowPolicy
from paceline.api.wire import Late, Role
from paceline.errors import ConfigError
from paceline.policy.resources import engine_profile, hardware_pools, noted_profile
from paceline.policy.routing.placement import default_local_prefill_tokens
from paceline.policy.scaling.perfmodel import EngineProfile
from paceline.policy.scaling.profiles import known_profiles, profile_of
from paceline.policy.scaling.settings import ForecastSettings, PoolSettings, ScalingSettings
from paceline.policy.waiting import age_bound_seconds
from paceline.simulator.router import RouterSettings
from paceline.simulator.settings import Objective, PodHabits, SimSettings, Tiers

GIB: Final = 1 << 30
NEAR_WINDOW_SECONDS: Final = 60.0
"""Newest traffic, by which the planner judges roles."""
SHARED_TIER_BYTES: Final = 1 << 40
"""What a shared tier is taken to hold: the resource names its address, not its size."""


def settings_of(md: ModelDeployment, *, profile: str | EngineProfile | None, seed: int) -> SimSettings:
    """Settings of a simulation of ``md``. ``profile`` is the engine model, or its name; None looks up the hardware's.

    Raises ConfigError for hardware of which no model is known, and for roles on different hardware.
    """
    spec = md.spec
    pools = hardware_pools(spec)
    if len(pools) > 1:
        raise ConfigError(
            f"{md.metadata.name}: prefill and decode ask for different hardware; the simulator knows one kind. "
            "Give both pools the same accelerator, parallelism, node selector and tolerations."
        )
    (pool,) = pools
    if not isinstance(profile, EngineProfile):
        profile = profile_of(profile or noted_profile(md) or engine_profile(md, pool) or _unknown(md), "engine profile")
    engine = profile
    bounds = {bound.role: (bound.minimum, bound.maximum) for bound in pool.bounds}
    gpus = pool.accelerators or 1
    return SimSettings(
        profile=engine,
        gpus_per_engine=gpus,
        router=_router(md, engine),
        objective=Objective(
            ttft_seconds=spec.slo.ttft_milliseconds / 1000,
            itl_seconds=spec.slo.itl_milliseconds / 1000,
            target=spec.slo.target_percent / 100,
        ),
        pods=PodHabits(start_deadline_seconds=float(spec.engine.start_deadline_seconds)),
        tiers=_tiers(md, engine),
        bounds=bounds,
        flexible=spec.scaling.role_changes is Toggle.ENABLED,
        scaling=_scaling(md, bounds, gpus),
        planner_interval_seconds=float(spec.scaling.interval_seconds),
        gpu_budget=spec.scaling.gpu_budget or gpus * sum(most for _, most in bounds.values()),
        seed=seed,
    )


def _router(md: ModelDeployment, engine: EngineProfile) -> RouterSettings:
    routing = md.spec.routing
    disaggregated = md.spec.pools.mode is PoolMode.DISAGGREGATED
    local = routing.local_prefill_tokens
    if local is None:
        local = default_local_prefill_tokens(engine)
    return RouterSettings(
        ttft_seconds=md.spec.slo.ttft_milliseconds / 1000,
        itl_seconds=md.spec.slo.itl_milliseconds / 1000,
        # With a bound of nothing, whoever is late goes first, in the order of arrival.
        age_bound_seconds=float(routing.queue.max_late_seconds) if routing.queue.order is QueueOrder.DEADLINE else 0.0,
        max_queued_requests=routing.admission.max_queued_requests,
        max_queue_seconds=float(routing.admission.max_queue_seconds),
        late=Late(routing.admission.late),
        local_prefill_tokens=local if disaggregated else 0,
        hold_for_itl=md.spec.holds_for_itl,
    )


def _scaling(md: ModelDeployment, bounds: Mapping[Role, tuple[int, int]], gpus: int) -> ScalingSettings:
    scaling, slo = md.spec.scaling, md.spec.slo
    pools = {
        role: PoolSettings(min_engines=least, max_engines=most, gpus_per_engine=gpus)
        for role, (least, most) in bounds.items()
    }
    idle = scaling.scale_to_zero
    return ScalingSettings(
        ttft_seconds=slo.ttft_milliseconds / 1000,
        itl_seconds=slo.itl_milliseconds / 1000,
        target=slo.target_percent / 100,
        prefill=pools.get(Role.PREFILL),
        decode=pools.get(Role.DECODE),
        both=pools.get(Role.BOTH),
        flexible=scaling.role_changes is Toggle.ENABLED,
        gpu_budget=scaling.gpu_budget,
        demand_window_seconds=float(scaling.demand_window_seconds),
        near_window_seconds=min(NEAR_WINDOW_SECONDS, float(scaling.demand_window_seconds)),
        down_window_seconds=float(scaling.scale_down_window_seconds),
        adaptive_window=scaling.scale_down_window_policy is WindowPolicy.ADAPTIVE,
        kv_usage=scaling.kv_usage_percent / 100,
        start_deadline_seconds=float(md.spec.engine.start_deadline_seconds),
        hold_for_itl=md.spec.holds_for_itl,
        idle_seconds=float(idle.idle_seconds) if idle.policy is ScaleToZeroPolicy.WHEN_IDLE else None,
        late_age_bound_seconds=age_bound_seconds(
            md.spec.routing.queue.max_late_seconds, md.spec.routing.admission.max_queue_seconds
        ),
        forecast=ForecastSettings(
            enabled=scaling.forecast.mode is Toggle.ENABLED,
            peak_quantile=scaling.forecast.peak_percent / 100,
            season_seconds=float(scaling.forecast.season_seconds),
            min_horizon_seconds=float(scaling.forecast.min_horizon_seconds),
            max_horizon_seconds=float(scaling.forecast.max_horizon_seconds),
        ),
    )


def _tiers(md: ModelDeployment, engine: EngineProfile) -> Tiers:
    cache = md.spec.engine.kv_cache
    each = engine.kv_bytes_per_token
    return Tiers(
        host_tokens=cache.host_tier.size_gib * GIB // each if cache.host_tier else engine.host_tier_tokens,
        disk_tokens=cache.disk_tier.size_gib * GIB // each if cache.disk_tier else 0,
        shared_tokens=SHARED_TIER_BYTES // each if cache.shared_tier else 0,
    )


def _unknown(md: ModelDeployment) -> str:
    raise ConfigError(
        f"{md.metadata.name}: no engine model is known for {md.spec.model.name} on this hardware. "
        f"Choose one with --engine-profile: {', '.join(sorted(known_profiles()))}."
    )
