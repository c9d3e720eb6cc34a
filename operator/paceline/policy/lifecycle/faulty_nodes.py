"""Which nodes have GPUs that fail engines again and again. Pure: time is passed in. Called by the controller, where the
user has set a limit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from paceline.policy.lifecycle.observed import Pod

WINDOW_SECONDS: Final = 24 * 3600.0
"""Faults longer ago don't count."""
MOST_FAULTS: Final = 1000
"""Remembered of one node."""


class FaultyNodes:
    """Faults by node. ``limit``: so many within the window make a node one that fails engines."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._faults: dict[str, dict[tuple[str, float], None]] = {}
        self._forgiven: dict[str, float] = {}
        """Faults up to then are a node's past."""

    def look(self, pods: Iterable[Pod], now: float) -> dict[str, int]:
        """Nodes at their limit, and how many faults there were. A fault is seen many times and counts once."""
        for pod in pods:
            if pod.node and pod.fault_at is not None and pod.fault_at > self._forgiven.get(pod.node, -1.0):
                known = self._faults.setdefault(pod.node, {})
                if len(known) < MOST_FAULTS:
                    known[pod.uid, pod.fault_at] = None
        begin = now - WINDOW_SECONDS
        self._faults = {
            node: kept
            for node, faults in self._faults.items()
            if (kept := {fault: None for fault in faults if fault[1] >= begin})
        }
        self._forgiven = {node: at for node, at in self._forgiven.items() if at >= begin}
        return {node: len(faults) for node, faults in self._faults.items() if len(faults) >= self._limit}

    def forgive(self, node: str) -> None:
        """It was told of: only new faults count, so that a person who mends it is not contradicted by old ones."""
        faults = self._faults.pop(node, {})
        self._forgiven[node] = max((at for _, at in faults), default=0.0)
