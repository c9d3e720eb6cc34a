"""Fixed counts. ``static-best`` is this with the best counts there are, found by search."""

from __future__ import annotations

from collections.abc import Sequence

from paceline.simulator.cluster import Cluster, Targets
from paceline.simulator.telemetry import Sample


class StaticPolicy:
    """Never changes anything."""

    interval_seconds = None

    def __init__(self, prefill: int, decode: int, *, name: str = "static-best") -> None:
        self.name = name
        self.initial = Targets(prefill, decode)

    def decide(self, seen: Sequence[Sample], cluster: Cluster) -> None:
        """Nothing to decide."""
