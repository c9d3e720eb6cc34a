"""The figures of a comparison, as ``paceline simulate --json`` writes them and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from paceline.simulator.score import feasible
from paceline.simulator.simulation import Run


class Quantiles(msgspec.Struct, frozen=True):
    """Of completed requests, in milliseconds; None when there is none."""

    p50: float | None
    p90: float | None
    p99: float | None


class PolicyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one policy reached."""

    policy: str
    requests: int
    completed: int
    rejected: int
    lost: int
    ttft_ms: Quantiles
    itl_ms: Quantiles
    """Of the requests' mean times between tokens."""
    attainment: float
    """Share of all requests, refused ones too, that met TTFT and ITL."""
    feasible_attainment: float
    """The same over those that could meet the TTFT alone on idle engines with empty caches."""
    goodput_rps: float
    """Requests a second that met both, over the time in which requests arrived."""
    gpu_hours: float
    """Of all pods, starting and draining ones too, until the last arrival."""
    goodput_per_gpu_hour: float
    """Requests that met both, for each GPU-hour."""
    prefix_hit_rate: float
    """Share of the prompt tokens of completed requests that came from a cache."""
    flips: int
    starts: int
    drains: int
    max_gpus: int
    preemptions: int
    meets_gate: bool
    """Nothing lost, and the target share of feasible requests attained."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A comparison of policies on one trace."""

    trace: str
    policies: tuple[PolicyReport, ...]
    wall_seconds: float
    """Of the runs shown, without the search for the best settings of those that are tuned."""
    simulated_requests_per_second: float
    """Of the runs shown."""


@dataclass(frozen=True, slots=True)
class Attainment:
    """Which requests met what; one entry a request."""

    ttft: NDArray[np.bool_]
    itl: NDArray[np.bool_]
    feasible: NDArray[np.bool_]

    @property
    def both(self) -> NDArray[np.bool_]:
        """Met TTFT and ITL."""
        return self.ttft & self.itl


def attainment(run: Run) -> Attainment:
    """Compare each request with the objective. What was refused or lost met nothing."""
    score, objective = run.score, run.settings.objective
    # Comparisons with NaN are false, as they should be.
    return Attainment(
        ttft=score.ttft <= objective.ttft_seconds,
        itl=score.itl <= objective.itl_seconds,
        feasible=feasible(run.workload, run.settings.profile, objective),
    )


def policy_report(run: Run) -> PolicyReport:
    """The figures of one run."""
    score, met = run.score, attainment(run)
    requests = len(run.workload)
    lost = requests - score.completed - score.rejected
    good = int(met.both.sum())
    hours = run.gpu_seconds / 3600
    on_feasible = float(met.both[met.feasible].mean()) if met.feasible.any() else 1.0
    prompt_tokens = score.completed_prompt_tokens
    return PolicyReport(
        policy=run.policy,
        requests=requests,
        completed=score.completed,
        rejected=score.rejected,
        lost=lost,
        ttft_ms=_quantiles(score.ttft),
        itl_ms=_quantiles(score.itl),
        attainment=float(met.both.mean()),
        feasible_attainment=on_feasible,
        goodput_rps=good / max(run.workload.seconds, 1e-9),
        gpu_hours=hours,
        goodput_per_gpu_hour=good / hours if hours else 0.0,
        prefix_hit_rate=1 - score.computed_tokens / prompt_tokens if prompt_tokens else 0.0,
        flips=run.flips,
        starts=run.starts,
        drains=run.drains,
        max_gpus=run.max_gpus,
        preemptions=run.preemptions,
        meets_gate=lost == 0 and on_feasible >= run.settings.objective.target,
    )


def report(trace: str, runs: Sequence[Run]) -> Report:
    """Put runs on one workload together."""
    wall = sum(run.wall_seconds for run in runs)
    return Report(
        trace=trace,
        policies=tuple(policy_report(run) for run in runs),
        wall_seconds=wall,
        simulated_requests_per_second=sum(len(run.workload) for run in runs) / wall if wall else 0.0,
    )


def _quantiles(seconds: NDArray[np.float64]) -> Quantiles:
    known = seconds[~np.isnan(seconds)]
    if not len(known):
        return Quantiles(None, None, None)
    p50, p90, p99 = (1000 * float(value) for value in np.quantile(known, (0.5, 0.9, 0.99)))
    return Quantiles(p50, p90, p99)
