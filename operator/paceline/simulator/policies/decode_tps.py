"""``decode-tps``: decode engines by the tokens a second they make, prefill engines at a preset ratio to them.

Every 15 s, desired decode = ceil(token rate / tokens a second of one engine), down only to the largest count wanted in
the last 300 s. One signal for both roles keeps them in step, as long as the mix of the traffic stays what the ratio was
preset for.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from paceline.simulator.cluster import Cluster, Targets
from paceline.simulator.policies.base import Context, DownWindow, Policy
from paceline.simulator.telemetry import Sample

RATE_SECONDS: Final = 60.0
DOWN_SECONDS: Final = 300.0
ENGINE_RATES: Final = (300.0, 600.0, 900.0, 1200.0)
"""Grid: tokens a second that one decode engine is given."""
RATIOS: Final = (1.0, 2.0, 3.0, 4.0)
"""Grid: prefill engines to decode engines."""


class DecodeTpsPolicy:
    """Scales both roles by one signal."""

    name = "decode-tps"
    interval_seconds = 15.0

    def __init__(self, initial: Targets, *, engine_rate: float, ratio: float) -> None:
        self.initial = initial
        self._engine_rate = engine_rate
        self._ratio = ratio
        self._window = DownWindow(DOWN_SECONDS)
        self._seen: deque[Sample] = deque()

    def decide(self, seen: Sequence[Sample], cluster: Cluster) -> None:
        """See :class:`Policy`."""
        if not seen:
            return
        sample = seen[-1]
        self._seen.append(sample)
        while len(self._seen) > 2 and self._seen[1].at <= sample.at - RATE_SECONDS:
            self._seen.popleft()
        first = self._seen[0]
        if sample.at <= first.at:
            return
        rate = (sample.output_tokens - first.output_tokens) / (sample.at - first.at)
        decode = self._window.settle(sample.at, math.ceil(rate / self._engine_rate))
        cluster.apply(Targets(math.ceil(decode * self._ratio), decode))


def candidates(context: Context) -> Iterator[Policy]:
    """The grid that it is tuned on."""
    for engine_rate in ENGINE_RATES:
        for ratio in RATIOS:
            yield DecodeTpsPolicy(context.initial, engine_rate=engine_rate, ratio=ratio)
