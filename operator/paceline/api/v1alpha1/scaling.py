"""``spec.scaling``: how far Paceline may go when it sizes the pools and changes roles."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from paceline.api.v1alpha1.base import Model, Percent, Seconds, Toggle


class ScalingMode(StrEnum):
    """Who decides on the number of engines."""

    AUTO = "Auto"
    RECOMMEND = "Recommend"
    OFF = "Off"


class RoleChangePolicy(StrEnum):
    """When an engine that changes its role takes the work of the new one."""

    AT_ONCE = "AtOnce"
    DRAIN_FIRST = "DrainFirst"


class WindowPolicy(StrEnum):
    """How long the scale-down window is."""

    FIXED = "Fixed"
    ADAPTIVE = "Adaptive"


class ScaleToZeroPolicy(StrEnum):
    """Whether an idle deployment keeps engines."""

    NEVER = "Never"
    WHEN_IDLE = "WhenIdle"


class Forecast(Model):
    """How demand is forecast over the time that a new engine needs to be ready."""

    mode: Toggle = Toggle.ENABLED
    """Disabled sizes for the demand that is measured now."""
    peak_percent: Percent = 90
    """Quantile of the forecast peak that is sized for."""
    season_seconds: Annotated[int, Field(ge=60, le=1_209_600)] = 86_400
    """Length of the pattern that repeats: a day, unless the traffic says otherwise."""
    min_horizon_seconds: Seconds = 60
    """Shortest time looked ahead for new engines, until their start has been measured."""
    max_horizon_seconds: Seconds = 1800
    """Longest time looked ahead."""


class ScaleToZero(Model):
    """What happens when no request comes at all."""

    policy: ScaleToZeroPolicy = ScaleToZeroPolicy.NEVER
    """WhenIdle stops all engines; the router holds the request that wakes them."""
    idle_seconds: Annotated[int, Field(ge=60, le=604_800)] = 1800
    """How long no request may come before engines stop."""


class Scaling(Model):
    """How far Paceline may go when it sizes the pools and changes roles."""

    mode: ScalingMode = ScalingMode.AUTO
    """Auto acts, Recommend only says what it would do, "Off" does neither. Quote "Off": a bare Off is a boolean in
    YAML.
    """
    gpu_budget: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Most accelerators that all engines together may use, even while roles change. Left out, `maxReplicas` alone
    bounds them.
    """
    role_changes: Toggle = Toggle.ENABLED
    """Whether a running engine may change between prefill and decode."""
    role_change_policy: RoleChangePolicy = RoleChangePolicy.AT_ONCE
    """AtOnce has it take prompts, or streams, while it finishes what it has; DrainFirst only then, or after
    `engine.drainSeconds`.
    """
    interval_seconds: Annotated[int, Field(ge=1, le=3600)] = 15
    """Time between two decisions."""
    demand_window_seconds: Annotated[int, Field(ge=30, le=3600)] = 300
    """How much of the recent traffic a decision replays."""
    scale_down_window_seconds: Annotated[int, Field(ge=0, le=86_400)] = 180
    """Engines are removed only when they were not needed for this long."""
    scale_down_window_policy: WindowPolicy = WindowPolicy.ADAPTIVE
    """Adaptive lengthens the window while jumps of the load cost too many misses, Fixed keeps it."""
    kv_usage_percent: Percent = 90
    """Share of the KV capacity of decode engines that is planned with."""
    forecast: Forecast = Forecast()
    """How demand is forecast."""
    scale_to_zero: ScaleToZero = ScaleToZero()
    """What happens when no request comes at all."""

    @property
    def may_sleep(self) -> bool:
        """Whether there may be no engine at all. Whoever wakes the deployment waits for one to start."""
        return self.mode is ScalingMode.AUTO and self.scale_to_zero.policy is ScaleToZeroPolicy.WHEN_IDLE
