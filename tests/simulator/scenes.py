"""Small workloads and settings that the simulator's tests share."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from paceline.api.wire import Late, Role
from paceline.policy.scaling.profiles import get_profile
from paceline.simulator.cluster import Cluster, Targets
from paceline.simulator.router import RouterSettings
from paceline.simulator.settings import SimSettings
from paceline.simulator.telemetry import Sample
from paceline.simulator.workload import Workload
from paceline.traces.generate import ConversationShape, generate_conversations
from paceline.traces.record import Trace, TraceRequest

PROFILE = get_profile("qwen3-32b-h200-tp2")


def settings(**changes: object) -> SimSettings:
    base = SimSettings(
        profile=PROFILE,
        gpus_per_engine=2,
        # Nobody is refused for being late, so that a request which is missing is one that was lost.
        router=RouterSettings(ttft_seconds=2.0, late=Late.SERVE),
        bounds={Role.PREFILL: (0, 12), Role.DECODE: (0, 12)},
        gpu_budget=32,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


AGGREGATED = {Role.BOTH: (0, 24)}


def conversation(*, seconds: float = 120.0, rate: float = 4.0, seed: int = 0) -> Workload:
    shape = ConversationShape(requests_per_second=rate)
    return Workload(generate_conversations(shape, seconds=seconds, rng=random.Random(seed)))


def trace_of(*requests: TraceRequest) -> Trace:
    return Trace("by hand", requests)


class RestlessPolicy:
    """Wants other counts every few seconds, for no reason."""

    name = "restless"
    interval_seconds = 7.0
    initial = Targets(2, 2)

    def __init__(self, seed: int, *, flexible: bool) -> None:
        self._rng = random.Random(seed)
        self._flexible = flexible

    def decide(self, seen: Sequence[Sample], cluster: Cluster) -> None:
        cluster.apply(Targets(self._rng.randint(0, 9), self._rng.randint(0, 9), flexible=self._flexible))
