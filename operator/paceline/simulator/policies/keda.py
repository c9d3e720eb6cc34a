"""``keda``: KEDA on the number of waiting requests, as vLLM's production guides set it up.

Every 30 s, desired = ceil(total / threshold) (an ``AverageValue`` metric), down only to the largest count wanted in
the cool-down of 300 s. Decode engines hardly ever let requests wait, so their trigger counts running ones too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from paceline.simulator.cluster import Cluster, Targets
from paceline.simulator.policies.base import Context, DownWindow, Policy
from paceline.simulator.telemetry import Sample

COOLDOWN_SECONDS: Final = 300.0
PREFILL_THRESHOLDS: Final = (0.5, 1.0, 2.0, 5.0)
DECODE_THRESHOLDS: Final = (16.0, 24.0, 32.0, 48.0)


class KedaPolicy:
    """Scales each role by itself."""

    name = "keda"
    interval_seconds = 30.0

    def __init__(self, initial: Targets, *, prefill_threshold: float, decode_threshold: float) -> None:
        self.initial = initial
        self._prefill_threshold = prefill_threshold
        self._decode_threshold = decode_threshold
        self._prefill_window = DownWindow(COOLDOWN_SECONDS)
        self._decode_window = DownWindow(COOLDOWN_SECONDS)

    def decide(self, seen: Sequence[Sample], cluster: Cluster) -> None:
        """See :class:`Policy`."""
        if not seen:
            return
        sample = seen[-1]
        prefill = math.ceil(sample.prefill.waiting / self._prefill_threshold)
        decode = math.ceil((sample.decode.running + sample.decode.waiting) / self._decode_threshold)
        cluster.apply(
            Targets(
                self._prefill_window.settle(sample.at, prefill),
                self._decode_window.settle(sample.at, decode),
            )
        )


def candidates(context: Context) -> Iterator[Policy]:
    """The grid that it is tuned on."""
    for prefill_threshold in PREFILL_THRESHOLDS:
        for decode_threshold in DECODE_THRESHOLDS:
            yield KedaPolicy(context.initial, prefill_threshold=prefill_threshold, decode_threshold=decode_threshold)
