"""``threshold``: one engine more or less when a gauge crosses a threshold.

Prefill by the prompt tokens that wait, in units of a context length an engine; decode by KV utilisation. Every 15 s,
one step at a time, and none up while an engine of that role starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from paceline.simulator.cluster import Cluster, Targets
from paceline.simulator.policies.base import Context, DownWindow, Policy
from paceline.simulator.telemetry import RoleSample, Sample

CONTEXT_TOKENS: Final = 32_768
DOWN_SECONDS: Final = 180.0
PREFILL_UP: Final = (0.02, 0.05, 0.15, 0.5)
"""Grid: waiting tokens an engine, in context lengths."""
DECODE_UP: Final = (0.2, 0.3, 0.45, 0.6)
"""Grid: KV utilisation."""
DOWN_SHARE: Final = 0.4
"""Down below this share of the upper threshold."""


class ThresholdPolicy:
    """Scales each role by itself."""

    name = "threshold"
    interval_seconds = 15.0

    def __init__(self, initial: Targets, *, prefill_up: float, decode_up: float) -> None:
        self.initial = initial
        self._prefill_up = prefill_up
        self._decode_up = decode_up
        self._prefill_window = DownWindow(DOWN_SECONDS)
        self._decode_window = DownWindow(DOWN_SECONDS)

    def decide(self, seen: Sequence[Sample], cluster: Cluster) -> None:
        """See :class:`Policy`."""
        if not seen:
            return
        sample = seen[-1]
        prefill, decode = sample.prefill, sample.decode
        backlog = prefill.waiting_tokens / CONTEXT_TOKENS / max(1, prefill.ready)
        cluster.apply(
            Targets(
                self._prefill_window.settle(sample.at, _step(prefill, backlog, self._prefill_up)),
                self._decode_window.settle(sample.at, _step(decode, decode.kv_usage, self._decode_up)),
            )
        )


def _step(role: RoleSample, value: float, upper: float) -> int:
    current = role.ready + role.starting
    if value > upper and not role.starting:
        return current + 1
    return current - 1 if value < DOWN_SHARE * upper else current


def candidates(context: Context) -> Iterator[Policy]:
    """The grid that it is tuned on."""
    for prefill_up in PREFILL_UP:
        for decode_up in DECODE_UP:
            yield ThresholdPolicy(context.initial, prefill_up=prefill_up, decode_up=decode_up)
