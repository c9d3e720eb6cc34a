"""Quantiles of a few values, without numpy: routers and the operator have none."""

from __future__ import annotations

import math
from collections.abc import Sequence


def reached(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed; 0 of nothing."""
    if not values:
        return 0.0
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def interpolated(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the values are, between the two nearest; 0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
