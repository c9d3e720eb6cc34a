"""``oracle``: knows all arrivals in advance. What nobody can have, to measure the rest by.

Time is cut into slots. Each slot needs prefill engines for the work that arrives around it at a utilisation, and decode
engines for the tokens that arrive around it with a margin. Engines are ordered as long before as a start takes at its
95th percentile, kept when they are needed again sooner than that, and change roles at no notice. Utilisation,
smoothing and margin are the best of a grid for each trace, and the best static fleet is a candidate too. So this is an
upper bound on the least GPU-hours that meet the objective, not a proof of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from paceline.policy.scaling.decode_sizing import DecodeDemand, DecodeLimits, size_decode
from paceline.simulator.cluster import Cluster, Targets
from paceline.simulator.policies.base import Context, MeanSteps, Policy
from paceline.simulator.settings import SimSettings
from paceline.simulator.telemetry import Sample
from paceline.simulator.workload import FloatArray, Workload

SLOT_SECONDS: Final = 10.0
UTILISATIONS: Final = (0.45, 0.55, 0.65, 0.8)
SMOOTHING_SLOTS: Final = (3, 9)
"""Slots around each that its load is the mean of."""
MOST_ENGINES: Final = 1e6
"""Stands for more than any cluster has, where no number of engines is enough."""
DECODE_MARGINS: Final = (1.0, 1.25)


class OraclePolicy:
    """Follows a schedule made from the whole workload."""

    name = "oracle"
    interval_seconds = SLOT_SECONDS

    def __init__(
        self, workload: Workload, settings: SimSettings, *, utilisation: float, smoothing: int, decode_margin: float
    ) -> None:
        self._prefill, self._decode = _schedule(workload, settings, utilisation, smoothing, decode_margin)
        self._ahead = math.ceil(settings.pods.start_p95_seconds / SLOT_SECONDS) + 1
        self.initial = self._targets(0)

    def decide(self, seen: Sequence[Sample], cluster: Cluster) -> None:  # noqa: ARG002 - it knows without looking
        """See :class:`Policy`."""
        cluster.apply(self._targets(round(cluster.now / SLOT_SECONDS)))

    def _targets(self, slot: int) -> Targets:
        slot = min(slot, len(self._prefill) - 1)
        soon = slice(slot, slot + self._ahead + 1)
        total = int((self._prefill[soon] + self._decode[soon]).max())
        # Roles for the busiest of this slot and the next: what is ordered for later may idle in either.
        decode = int(self._decode[slot : slot + 2].max())
        prefill = int(self._prefill[slot : slot + 2].max())
        return Targets(max(prefill, total - decode), decode, flexible=True)


def _schedule(
    workload: Workload, settings: SimSettings, utilisation: float, smoothing: int, decode_margin: float
) -> tuple[FloatArray, FloatArray]:
    """Engines that each slot needs: (prefill, decode)."""
    profile, objective = settings.profile, settings.objective
    prompts, outputs = workload.sizes()
    slots = int(workload.seconds // SLOT_SECONDS) + 1
    index = (workload.arrivals // SLOT_SECONDS).astype(int)
    work = profile.prefill_base + prompts * (profile.prefill_token + profile.prefill_attention * prompts / 2)

    def smooth(values: FloatArray) -> FloatArray:
        summed = np.bincount(index, weights=values, minlength=slots)
        padded = np.pad(summed, smoothing // 2, mode="edge")
        return np.convolve(padded, np.ones(smoothing) / smoothing, mode="valid") / SLOT_SECONDS

    prefill = np.ceil(smooth(work) / utilisation)
    limits = DecodeLimits(objective.itl_seconds, profile.max_seqs, profile.kv_capacity_tokens)
    columns = (smooth(np.ones_like(prompts)), smooth(outputs), smooth((prompts + outputs / 2) * outputs))
    model = MeanSteps(profile)
    decode = [
        size_decode(model, DecodeDemand(rate * decode_margin, tokens / rate, context / tokens), limits).engines
        if rate > 0
        else 0
        for rate, tokens, context in zip(*(column.tolist() for column in columns), strict=True)
    ]
    return prefill, np.minimum(np.array(decode, dtype=float), MOST_ENGINES)


def candidates(context: Context) -> Iterator[Policy]:
    """The grid that it is tuned on."""
    for utilisation in UTILISATIONS:
        for smoothing in SMOOTHING_SLOTS:
            for margin in DECODE_MARGINS:
                yield OraclePolicy(
                    context.workload,
                    context.settings,
                    utilisation=utilisation,
                    smoothing=smoothing,
                    decode_margin=margin,
                )
