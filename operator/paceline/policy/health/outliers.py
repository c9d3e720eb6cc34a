"""When one of several engines differs from the others by more than chance. Pure arithmetic on counts and lists.

The others are the healthier half of its siblings: a second engine that is unwell must not make the first look normal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

SURE: Final = 4.0
"""Standard deviations of each of the two bounds that are compared. An engine is looked at after every answer, so chance
has many tries; ``python -m tests.bench.output_health load`` counts how often it gets through.
"""
TIMES: Final = 2.0
"""An engine that is not well differs by much: at least so many times as often as its siblings."""


class Share(NamedTuple):
    """So many of so many."""

    part: int
    whole: int

    @property
    def ratio(self) -> float:
        """0 to 1; 0 of nothing."""
        return self.part / self.whole if self.whole else 0.0


def wilson(share: Share, z: float = SURE) -> tuple[float, float]:
    """Bounds of the true share (Wilson 1927: good for small counts and for shares near 0 and 1); 0 and 1 of nothing."""
    part, whole = share
    if whole == 0:
        return 0.0, 1.0
    ratio, square = part / whole, z * z
    middle = ratio + square / (2 * whole)
    spread = z * math.sqrt(ratio * (1 - ratio) / whole + square / (4 * whole * whole))
    scale = 1 + square / whole
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def healthier_half(siblings: Iterable[Share], least: int) -> Share:
    """The siblings with the smallest shares, added up: half of those that have ``least`` of their own, rounded up."""
    ranked = sorted((one for one in siblings if one.whole >= least), key=lambda one: one.ratio)
    half = ranked[: (len(ranked) + 1) // 2]
    return Share(sum(one.part for one in half), sum(one.whole for one in half))


def stands_out(own: Share, others: Share, *, floor: float) -> bool:
    """Whether surely more than ``floor``, and surely and by far more than ``others``."""
    low = wilson(own)[0]
    return low >= floor and own.ratio >= TIMES * others.ratio and low > wilson(others)[1]
