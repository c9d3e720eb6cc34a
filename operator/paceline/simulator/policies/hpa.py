"""``hpa``: a Kubernetes HorizontalPodAutoscaler for each role, on the mean queue of its engines.

The algorithm is that of the HPA v2 controller with its defaults: every 15 s, desired = ceil(current · metric / target)
unless the ratio is within 10% of 1; up by at most 4 pods or 100% in a period; down only to the largest count wanted in
the last 300 s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from paceline.simulator.cluster import Cluster, Targets
from paceline.simulator.policies.base import Context, DownWindow, Policy
from paceline.simulator.telemetry import RoleSample, Sample

TOLERANCE: Final = 0.1
DOWN_SECONDS: Final = 300.0
UP_PODS: Final = 4
PREFILL_TARGETS: Final = (0.5, 1.0, 2.0, 4.0)
"""Grid: waiting requests a prefill engine."""
DECODE_TARGETS: Final = (16.0, 24.0, 32.0, 48.0)
"""Grid: running and waiting sequences a decode engine."""


class HpaPolicy:
    """Scales each role by itself."""

    name = "hpa"
    interval_seconds = 15.0

    def __init__(self, initial: Targets, *, prefill_target: float, decode_target: float) -> None:
        self.initial = initial
        self._prefill_target = prefill_target
        self._decode_target = decode_target
        self._prefill_window = DownWindow(DOWN_SECONDS)
        self._decode_window = DownWindow(DOWN_SECONDS)

    def decide(self, seen: Sequence[Sample], cluster: Cluster) -> None:
        """See :class:`Policy`."""
        if not seen:
            return
        sample = seen[-1]
        prefill, decode = sample.prefill, sample.decode
        cluster.apply(
            Targets(
                self._prefill_window.settle(sample.at, _desired(prefill, prefill.waiting, self._prefill_target)),
                self._decode_window.settle(
                    sample.at, _desired(decode, decode.running + decode.waiting, self._decode_target)
                ),
            )
        )


def _desired(role: RoleSample, total: float, target: float) -> int:
    current = role.ready + role.starting
    # The controller takes the mean over pods that are ready, and assumes nothing of the others.
    ratio = total / max(1, role.ready) / target
    if abs(ratio - 1) <= TOLERANCE:
        return current
    wanted = math.ceil(role.ready * ratio)
    return min(wanted, max(current + UP_PODS, 2 * current))


def candidates(context: Context) -> Iterator[Policy]:
    """The grid that it is tuned on."""
    for prefill_target in PREFILL_TARGETS:
        for decode_target in DECODE_TARGETS:
            yield HpaPolicy(context.initial, prefill_target=prefill_target, decode_target=decode_target)
