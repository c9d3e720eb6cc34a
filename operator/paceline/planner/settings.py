"""What a ModelDeployment tells the scaling policy: its settings, and how fast its engines are."""

from __future__ import annotations

from paceline.api import labels
from paceline.api.v1alpha1 import ModelDeployment, Pool, Toggle
from paceline.api.v1alpha1.scaling import ScaleToZeroPolicy, WindowPolicy
from paceline.policy.resources import HardwarePool, engine_profile, hardware_pools, noted_profile
from paceline.policy.scaling.assumed import Assumed, assumed_profile
from paceline.policy.scaling.perfmodel import EngineProfile
from paceline.policy.scaling.profiles import profile_of
from paceline.policy.scaling.settings import EngineModels, ForecastSettings, PoolSettings, ScalingSettings
from paceline.policy.waiting import age_bound_seconds

NEAR_WINDOW_SECONDS = 60.0
"""Newest part of the demand window, by which roles are judged; shorter where the whole window is."""


def scaling_settings(md: ModelDeployment, *, gpu_limit: int | None = None) -> ScalingSettings:
    """The policy's settings. ``gpu_limit``: accelerators that a quota shared with others leaves; None: no quota."""
    spec, scaling = md.spec, md.spec.scaling
    on_cpus = not any(pool.accelerators for pool in hardware_pools(spec))

    def bounds(pool: Pool | None) -> PoolSettings | None:
        if pool is None:
            return None
        # On CPUs no budget counts, but shares of engines are still worked out in units of an engine.
        return PoolSettings(
            min_engines=pool.min_replicas,
            max_engines=pool.max_replicas,
            gpus_per_engine=spec.accelerators_of(pool) or 1,
        )

    budgets = [budget for budget in (scaling.gpu_budget, gpu_limit) if budget is not None and not on_cpus]
    prefill, decode, both = bounds(spec.pools.prefill), bounds(spec.pools.decode), bounds(spec.pools.aggregated)
    least = sum(pool.min_engines * pool.gpus_per_engine for pool in (prefill, decode, both) if pool is not None)
    sleeps = scaling.scale_to_zero.policy is ScaleToZeroPolicy.WHEN_IDLE
    window = float(scaling.demand_window_seconds)
    return ScalingSettings(
        ttft_seconds=spec.slo.ttft_milliseconds / 1000,
        itl_seconds=spec.slo.itl_milliseconds / 1000,
        target=spec.slo.target_percent / 100,
        prefill=prefill,
        decode=decode,
        both=both,
        flexible=scaling.role_changes is Toggle.ENABLED and len(hardware_pools(spec)) == 1,
        gpu_budget=max(least, min(budgets)) if budgets else None,
        demand_window_seconds=window,
        near_window_seconds=min(NEAR_WINDOW_SECONDS, window),
        down_window_seconds=float(scaling.scale_down_window_seconds),
        adaptive_window=scaling.scale_down_window_policy is WindowPolicy.ADAPTIVE,
        kv_usage=scaling.kv_usage_percent / 100,
        start_deadline_seconds=float(spec.engine.start_deadline_seconds),
        hold_for_itl=spec.holds_for_itl,
        idle_seconds=float(scaling.scale_to_zero.idle_seconds) if sleeps else None,
        late_age_bound_seconds=age_bound_seconds(
            spec.routing.queue.max_late_seconds, spec.routing.admission.max_queue_seconds
        ),
        forecast=ForecastSettings(
            enabled=scaling.forecast.mode is Toggle.ENABLED,
            peak_quantile=scaling.forecast.peak_percent / 100,
            season_seconds=float(scaling.forecast.season_seconds),
            min_horizon_seconds=float(scaling.forecast.min_horizon_seconds),
            max_horizon_seconds=float(scaling.forecast.max_horizon_seconds),
        ),
    )


def engine_models(md: ModelDeployment, *, profile: str | None = None) -> EngineModels | None:
    """How fast engines are; None when nothing is known of the model on its hardware.

    ``profile`` goes before the annotation ``paceline.dev/engine-profile``, and that before what the hardware is known
    for. Where it was not measured, what is known of other layouts, or of the hardware, has to do (:func:`guessed`).
    Raises ConfigError for a name that is not known, and a text that is no profile.
    """
    named = profile or noted_profile(md)
    if named is not None:
        return EngineModels.same(profile_of(named, "--profile"))
    pools = hardware_pools(md.spec)
    found = [_profile(md, pool) for pool in (pools[0], pools[-1])]
    if found[0] is None or found[1] is None:
        return None
    return EngineModels(prefill=found[0], decode=found[1])


def guessed(md: ModelDeployment, *, profile: str | None = None) -> str | None:
    """What engine models are guesses by, in words; None where all of them have a profile."""
    if profile is not None or labels.ENGINE_PROFILE in md.metadata.annotations:
        return None
    found = [_assumed(md, pool) for pool in hardware_pools(md.spec) if engine_profile(md, pool) is None]
    return next((one.profile.provenance for one in found if one is not None), None)


def _profile(md: ModelDeployment, pool: HardwarePool) -> EngineProfile | None:
    name = engine_profile(md, pool)
    if name is not None:
        return profile_of(name, labels.ENGINE_PROFILE)
    assumed = _assumed(md, pool)
    return None if assumed is None else assumed.profile


def _assumed(md: ModelDeployment, pool: HardwarePool) -> Assumed | None:
    spread = pool.parallelism
    if not pool.accelerators or spread.pipeline > 1:
        return None
    return assumed_profile(
        md.spec.model.name,
        pool.accelerator.product or "",
        tensor=spread.tensor,
        data=spread.data,
        expert_parallel=spread.expert is Toggle.ENABLED,
    )
