"""``throughput``: a planner on means with a fast load loop on top, as SLA planners of the field work.

Every 180 s it sizes both roles for the mean rate and the mean lengths of the last period: prefill engines for the mean
prefill time at a utilisation, decode engines for the tokens a second that one engine makes within the ITL. Every 5 s
a loop adds one engine, or takes one away, by the queue and the batch, within one of the plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from paceline.api.wire import Role
from paceline.policy.scaling.decode_sizing import DecodeDemand, DecodeLimits, size_decode
from paceline.simulator.cluster import Cluster, Targets
from paceline.simulator.policies.base import Context, MeanSteps, Policy
from paceline.simulator.settings import SimSettings
from paceline.simulator.telemetry import Sample

PLAN_SECONDS: Final = 180.0
UTILISATIONS: Final = (1.0, 0.8, 0.6, 0.45)
"""Grid: planned share of busy time of prefill engines. 1 is the plain mean."""
WAITING_UP: Final = (1.0, 2.0)
"""Grid: waiting requests a prefill engine that make the loop add one."""


class ThroughputPolicy:
    """Plans both roles together, corrects each by itself."""

    name = "throughput"
    interval_seconds = 5.0

    def __init__(self, initial: Targets, settings: SimSettings, *, utilisation: float, waiting_up: float) -> None:
        self.initial = initial
        self._settings = settings
        self._utilisation = utilisation
        self._waiting_up = waiting_up
        self._plan = initial
        self._last: Sample | None = None
        self._extra = (0, 0)

    def decide(self, seen: Sequence[Sample], cluster: Cluster) -> None:
        """See :class:`Policy`."""
        if not seen:
            return
        sample = seen[-1]
        if self._last is None:
            self._last = sample
        elif sample.at - self._last.at >= PLAN_SECONDS:
            self._plan = self._sized(self._last, sample)
            self._last = sample
            self._extra = (0, 0)
        self._extra = (self._prefill_extra(sample), self._decode_extra(sample))
        cluster.apply(Targets(self._plan.prefill + self._extra[0], self._plan.decode + self._extra[1]))

    def _sized(self, before: Sample, now: Sample) -> Targets:
        requests = now.arrivals - before.arrivals
        ended = now.completions - before.completions
        if not requests or not ended:
            return self._plan
        seconds = now.at - before.at
        profile, objective = self._settings.profile, self._settings.objective
        uncached = (now.uncached_tokens - before.uncached_tokens) / requests
        prompt = (now.prompt_tokens - before.prompt_tokens) / requests
        output = (now.output_tokens - before.output_tokens) / ended
        service = profile.prefill_base + uncached * (
            profile.prefill_token + profile.prefill_attention * (prompt - uncached / 2)
        )
        sizing = size_decode(
            MeanSteps(profile),
            DecodeDemand(requests / seconds, output, prompt + output / 2),
            DecodeLimits(objective.itl_seconds, profile.max_seqs, profile.kv_capacity_tokens),
        )
        return Targets(
            math.ceil(requests / seconds * service / self._utilisation),
            self._settings.bounded(Role.DECODE, sizing.engines),
        )

    def _prefill_extra(self, sample: Sample) -> int:
        role = sample.prefill
        if role.waiting > self._waiting_up * max(1, role.ready):
            return 1
        return -1 if not role.waiting and not role.starting else 0

    def _decode_extra(self, sample: Sample) -> int:
        role = sample.decode
        if not role.ready:
            return 0
        profile = self._settings.profile
        batch, context = role.running / role.ready, role.kv_usage * profile.kv_capacity_tokens
        return int(MeanSteps(profile).step_seconds(batch, context) > self._settings.objective.itl_seconds)


def candidates(context: Context) -> Iterator[Policy]:
    """The grid that it is tuned on."""
    for utilisation in UTILISATIONS:
        for waiting_up in WAITING_UP:
            yield ThroughputPolicy(context.initial, context.settings, utilisation=utilisation, waiting_up=waiting_up)
