"""``oracle``: knows all arrivals in advance. What nobody can have, to measure the rest by.

A schedule says how many engines of each role there are in each slot. Decode engines follow from which answers run when,
at the pace of the objective; prefill engines from the work that arrives in a few slots, at a utilisation. Engines are
ordered as long before as a start takes at its 95th percentile, kept when they are needed again sooner than that, and
change roles at no notice. The best of a grid of schedules is found by simulating them, and so is the share of it that
still meets the objective (:func:`paceline.simulator.oracle_search.best_schedule`). So it is the cheapest schedule that
was found and verified, in a class that is rich enough to follow any load: not a proof that nothing is cheaper.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from paceline.simulator.cluster import Cluster, Targets
from paceline.simulator.policies.base import Context
from paceline.simulator.settings import SimSettings
from paceline.simulator.telemetry import Sample
from paceline.simulator.workload import FloatArray, Workload

SLOT_SECONDS: Final = 10.0
UTILISATIONS: Final = (0.55, 0.7, 0.85)
SMOOTHING_SLOTS: Final = (3, 9)
"""Slots around each that its prefill work is the mean of."""
DECODE_LOADS: Final = (0.8, 0.95)
"""Share of what a decode engine can carry at the objective that it is given."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Engines that each slot needs. Not whole numbers, so that it can be scaled."""

    prefill: FloatArray
    decode: FloatArray

    def scaled(self, factor: float) -> Schedule:
        """The same shape with more or fewer engines."""
        return Schedule(self.prefill * factor, self.decode * factor)


class OraclePolicy:
    """Follows a schedule made from the whole workload."""

    name = "oracle"
    interval_seconds = SLOT_SECONDS

    def __init__(self, schedule: Schedule, settings: SimSettings) -> None:
        self._prefill, self._decode = np.ceil(schedule.prefill), np.ceil(schedule.decode)
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


def schedules(context: Context) -> Iterator[Schedule]:
    """The grid."""
    workload, settings = context.workload, context.settings
    decode = _decode_engines(workload, settings)
    for smoothing in SMOOTHING_SLOTS:
        prefill = _prefill_engines(workload, settings, smoothing)
        for utilisation in UTILISATIONS:
            for load in DECODE_LOADS:
                yield Schedule(np.maximum(1.0, prefill / utilisation), np.maximum(1.0, decode / load))


def _slots(workload: Workload) -> int:
    return int(workload.seconds // SLOT_SECONDS) + 1


def _prefill_engines(workload: Workload, settings: SimSettings, smoothing: int) -> FloatArray:
    """Engines that prefill keeps busy, by the work that arrives in ``smoothing`` slots around each."""
    profile = settings.profile
    prompts, _ = workload.sizes()
    index = (workload.arrivals // SLOT_SECONDS).astype(int)
    work = profile.prefill_base + prompts * (profile.prefill_token + profile.prefill_attention * prompts / 2)
    summed = np.bincount(index, weights=work, minlength=_slots(workload))
    padded = np.pad(summed, smoothing // 2, mode="edge")
    return np.asarray(np.convolve(padded, np.ones(smoothing) / smoothing, mode="valid") / SLOT_SECONDS)


def _decode_engines(workload: Workload, settings: SimSettings) -> FloatArray:
    """Engines that the answers which run in each slot need, at one token in the time that the objective gives."""
    profile, itl = settings.profile, settings.objective.itl_seconds
    prompts, outputs = workload.sizes()
    slots = _slots(workload)
    first = (workload.arrivals // SLOT_SECONDS).astype(int)
    last = np.minimum(((workload.arrivals + outputs * itl) // SLOT_SECONDS).astype(int), slots - 1)
    # What each answer adds to a step, from its first slot to its last; a short one for its share of a slot.
    share = np.minimum(1.0, outputs * itl / SLOT_SECONDS)
    weight = share * (profile.step_sequence + profile.step_context * (prompts + outputs / 2))
    change = np.bincount(first, weights=weight, minlength=slots + 1)
    change -= np.bincount(last + 1, weights=weight, minlength=slots + 1)
    return np.asarray(np.cumsum(change)[:slots] / max(itl - profile.step_base, 1e-9))
