"""What the planner is told once: the objective, how far it may go, and how patient it is.

The caller fills it in from ``spec.slo``, ``spec.pools`` and ``spec.scaling`` of a ModelDeployment; every field of the
same name means the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from paceline.api.wire import Role
from paceline.policy.scaling.perfmodel import EngineProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """Bounds on the engines of one role."""

    min_engines: int = 1
    max_engines: int
    gpus_per_engine: int

    def __post_init__(self) -> None:
        if not 0 <= self.min_engines <= self.max_engines or self.max_engines < 1:
            raise ValueError(f"engines of a role need 0 <= min <= max, not {self.min_engines} and {self.max_engines}")
        if self.gpus_per_engine < 0:
            raise ValueError(f"gpus_per_engine can't be negative: {self.gpus_per_engine}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastSettings:
    """How demand is forecast over the time that a new engine needs to be ready."""

    enabled: bool = True
    """False sizes for the demand that is measured now."""
    peak_quantile: float = 0.9
    season_seconds: float = 86_400.0
    min_horizon_seconds: float = 60.0
    max_horizon_seconds: float = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingSettings:
    """Either ``prefill`` and ``decode`` are set (disaggregated), or ``both`` is (aggregated)."""

    ttft_seconds: float
    itl_seconds: float
    target: float = 0.95
    """Share of feasible requests that is to meet each objective."""
    prefill: PoolSettings | None = None
    decode: PoolSettings | None = None
    both: PoolSettings | None = None
    flexible: bool = True
    """Whether prefill and decode share hardware and running engines may change between them."""
    gpu_budget: int | None = None
    """Most accelerators of all engines together, starting and draining ones too. None: only the pools' bounds count."""
    demand_window_seconds: float = 300.0
    near_window_seconds: float = 60.0
    """Newest part of the demand window, by which roles are judged: what a flip can still help."""
    down_window_seconds: float = 180.0
    adaptive_window: bool = True
    """Lengthen the scale-down window while jumps of the load cost too many misses."""
    kv_usage: float = 0.9
    start_deadline_seconds: float = 1800.0
    """A pod that is not ready after this counts as absent."""
    hold_for_itl: bool = True
    """Whether the router lets requests wait while one more stream would make every decode engine miss the ITL."""
    idle_seconds: float | None = None
    """Stop all engines after this long without a request. None: never."""
    late_age_bound_seconds: float = 60.0
    """As in the router's queue order."""
    forecast: ForecastSettings = field(default_factory=ForecastSettings)

    def __post_init__(self) -> None:
        if (self.both is None) == (self.prefill is None) or (self.prefill is None) != (self.decode is None):
            raise ValueError("set either prefill and decode, or both")
        if not (self.ttft_seconds > 0 and self.itl_seconds > 0 and 0 < self.target <= 1):
            raise ValueError("objectives must be positive and the target in (0, 1]")
        if not 0 < self.near_window_seconds <= self.demand_window_seconds:
            raise ValueError("the near window must be positive and no longer than the demand window")
        if self.flexible and len({pool.gpus_per_engine for pool in self.pools.values()}) > 1:
            raise ValueError("engines that change roles need the same number of GPUs in each")
        if self.gpu_budget is not None and self.gpu_budget < self.least_gpus:
            raise ValueError(f"gpu_budget is {self.gpu_budget}, the least engines need {self.least_gpus}")

    @property
    def pools(self) -> dict[Role, PoolSettings]:
        """The roles that there are."""
        pools = {Role.PREFILL: self.prefill, Role.DECODE: self.decode, Role.BOTH: self.both}
        return {role: pool for role, pool in pools.items() if pool is not None}

    @property
    def most_engines(self) -> int:
        """Engines that bounds and budget allow."""
        most = sum(pool.max_engines for pool in self.pools.values())
        gpus = min(pool.gpus_per_engine for pool in self.pools.values())
        return most if self.gpu_budget is None or not gpus else min(most, self.gpu_budget // gpus)

    @property
    def aggregated(self) -> bool:
        """Whether every engine does both."""
        return self.both is not None

    @property
    def least_gpus(self) -> int:
        """Accelerators of the fewest engines allowed."""
        return sum(pool.min_engines * pool.gpus_per_engine for pool in self.pools.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineModels:
    """How fast one engine of each role is. With one kind of hardware they are the same profile."""

    prefill: EngineProfile
    decode: EngineProfile

    @classmethod
    def same(cls, profile: EngineProfile) -> EngineModels:
        """One kind of hardware for everything."""
        return cls(prefill=profile, decode=profile)
