"""What a scaling policy is to the simulator, and what policies are built from."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from paceline.api.wire import Role
from paceline.policy.scaling.decode_sizing import DecodeDemand, DecodeLimits, size_decode
from paceline.policy.scaling.perfmodel import EngineProfile
from paceline.simulator.cluster import Cluster, Targets
from paceline.simulator.settings import SimSettings
from paceline.simulator.telemetry import Sample
from paceline.simulator.workload import Workload

SETTLED_SECONDS: Final = 300.0
"""The load of this long decides what a deployment that has been running for a while would look like at the start."""
PREFILL_UTILISATION: Final = 0.6
"""Of the engines there at the start."""


class Policy(Protocol):
    """Decides how many engines there are. All run behind the same router."""

    @property
    def name(self) -> str:
        """As ``--policy`` and the report call it."""
        ...

    @property
    def interval_seconds(self) -> float | None:
        """Time between two decisions; None if it only decides at the start."""
        ...

    @property
    def initial(self) -> Targets:
        """The engines that are ready when the load begins."""
        ...

    def decide(self, seen: Sequence[Sample], cluster: Cluster) -> None:
        """Look at the scrapes that have become visible since the last call, if any, and change the cluster, or not."""
        ...


@dataclass(frozen=True, slots=True)
class MeanSteps:
    """Decode steps of a profile at batches that are means, and so not whole numbers."""

    profile: EngineProfile

    def step_seconds(self, sequences: float, context_tokens: float, /) -> float:
        """See :class:`paceline.policy.scaling.decode_sizing.StepModel`."""
        profile = self.profile
        return profile.step_base + profile.step_sequence * sequences + profile.step_context * context_tokens


@dataclass(frozen=True, slots=True)
class Context:
    """What candidates for a policy are made from. Only ``oracle`` may look at the workload past its start."""

    workload: Workload
    settings: SimSettings
    initial: Targets
    """The same for all policies that can change it."""


def settled_counts(workload: Workload, settings: SimSettings) -> Targets:
    """Engines for the first minutes of the load by its means: where a deployment that is not new would start."""
    profile, objective = settings.profile, settings.objective
    prompts, outputs = workload.sizes()
    seconds = max(1.0, min(SETTLED_SECONDS, workload.seconds))
    there = workload.arrivals <= seconds
    prompts, outputs = prompts[there], outputs[there]
    work = math.fsum(profile.prefill_seconds(int(prompt)) for prompt in prompts)
    tokens = float(outputs.sum())
    demand = DecodeDemand(
        request_rate=len(prompts) / seconds,
        output_tokens=tokens / len(prompts),
        context_tokens=float(((prompts + outputs / 2) * outputs).sum() / tokens),
    )
    limits = DecodeLimits(
        itl_seconds=objective.itl_seconds,
        max_sequences=profile.max_seqs,
        kv_capacity_tokens=profile.kv_capacity_tokens,
    )
    decode = size_decode(MeanSteps(profile), demand, limits).engines
    prefill = math.ceil(work / seconds / PREFILL_UTILISATION)
    if settings.aggregated:
        return Targets(settings.bounded(Role.BOTH, prefill + decode), 0)
    return Targets(settings.bounded(Role.PREFILL, prefill), settings.bounded(Role.DECODE, decode))


class DownWindow:
    """Scale-down stabilisation: never below the largest count that was wanted within a window."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._wanted: deque[tuple[float, int]] = deque()

    def settle(self, now: float, wanted: int) -> int:
        """The count to act on."""
        while self._wanted and self._wanted[-1][1] <= wanted:
            self._wanted.pop()
        self._wanted.append((now, wanted))
        while self._wanted[0][0] < now - self._seconds:
            self._wanted.popleft()
        return self._wanted[0][1]
