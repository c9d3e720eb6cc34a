"""What a simulation is told: the objective, the cluster and its habits. The command line builds it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from paceline.api.wire import Role
from paceline.policy.scaling.perfmodel import EngineProfile
from paceline.policy.scaling.settings import ScalingSettings
from paceline.simulator.router import RouterSettings

BLOCK_TOKENS: Final = 512
"""Prefix blocks are as long as those of the Mooncake traces, whatever the engine's own block size: a coarser grain
costs at most one block of reuse a request."""
_P95: Final = 1.6448536269514722
"""95th percentile of the standard normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What a request is measured against, and what share of requests is to meet it."""

    ttft_seconds: float = 2.0
    itl_seconds: float = 0.025
    """Longest mean time between the tokens of one request."""
    target: float = 0.95
    """Share of feasible requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodHabits:
    """How long things take in Kubernetes. Start times are log-normal."""

    start_p50_seconds: float = 90.0
    start_p95_seconds: float = 180.0
    start_failure: float = 0.0
    """Probability that a start fails, at its end; the pod is then started anew."""
    start_deadline_seconds: float = 1800.0
    """A pod that is not ready by then is deleted."""
    flip_seconds: float = 1.0
    """From the change of a role label until the routers act on it."""

    def __post_init__(self) -> None:
        if not 0 < self.start_p50_seconds <= self.start_p95_seconds:
            raise ValueError(
                f"pod start times need 0 < p50 <= p95, not {self.start_p50_seconds} and {self.start_p95_seconds}"
            )
        if not 0 <= self.start_failure < 1:
            raise ValueError(f"the probability of a failed start must be in [0, 1), not {self.start_failure}")

    @property
    def start_mu(self) -> float:
        """Mean of the logarithm of the start time."""
        return math.log(self.start_p50_seconds)

    @property
    def start_sigma(self) -> float:
        """Standard deviation of the logarithm of the start time."""
        return math.log(self.start_p95_seconds / self.start_p50_seconds) / _P95


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapeHabits:
    """How Prometheus sees the cluster."""

    interval_seconds: float = 5.0
    delay_seconds: float = 1.0
    """From a scrape until its samples can be queried."""
    noise: float = 0.0
    """Relative standard deviation of gauges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiers:
    """KV tiers below the accelerator, in tokens. 0: there is none."""

    host_tokens: int = 0
    disk_tokens: int = 0
    shared_tokens: int = 0
    disk_bandwidth: float = 8e9
    """Bytes a second of one engine's disk."""
    shared_bandwidth: float = 20e9
    """Bytes a second between one engine and the shared tier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimSettings:
    """Everything about a simulation but the load and the policy."""

    profile: EngineProfile
    gpus_per_engine: int
    router: RouterSettings
    objective: Objective = Objective()
    pods: PodHabits = PodHabits()
    scrape: ScrapeHabits = ScrapeHabits()
    tiers: Tiers = Tiers()
    bounds: Mapping[Role, tuple[int, int]]
    """Fewest and most engines of each role: of prefill and decode, or of both."""
    flexible: bool = True
    """Whether running engines may change their role, if the policy knows how."""
    scaling: ScalingSettings | None = None
    """What ``planner`` is told; None: the objective and bounds above, and its own defaults."""
    planner_interval_seconds: float = 15.0
    """Time between two decisions of ``planner``."""
    gpu_budget: int
    """Most accelerators at any moment, those of starting and draining pods too."""
    seed: int = 0

    @property
    def aggregated(self) -> bool:
        """Whether every engine serves both roles."""
        return Role.BOTH in self.bounds

    def bounded(self, role: Role, count: float) -> int:
        """The nearest number of engines that is allowed. NaN is not a number of engines."""
        least, most = self.bounds[role]
        return int(max(least, min(most, count)))
