"""Where to draw the line between cold and warm prompts, from the uncached tokens of those that came lately.

The longest tenth of the prompts is cold: on real traces it holds more than half of the prefill work, and keeping it
apart is what lets follow-up turns pass. It gets the share of the engines that its work asks for. Used by the router;
what a split costs at most is bounded where it acts, in :mod:`paceline.policy.routing.placement`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from paceline.policy.routing.fleet import EngineModel

COLD_REQUESTS: Final = 0.1
"""Share of the requests that are cold at most."""
FEWEST_REQUESTS: Final = 100
"""With fewer there is nothing to draw a line in."""


@dataclass(frozen=True, slots=True)
class Split:
    """Prompts with at least ``cold_tokens`` uncached tokens get ``cold_share`` of the prefill engines."""

    cold_tokens: int
    cold_share: float


def split(bounds: Sequence[float], counts: Sequence[float], model: EngineModel) -> Split | None:
    """The split for a histogram of uncached tokens: upper ``bounds``, and ``counts`` with one more for what is above.

    None while there is too little to go by.
    """
    total = sum(counts)
    if total < FEWEST_REQUESTS:
        return None
    above, place = counts[-1], len(bounds)
    while place > 0 and above + counts[place - 1] <= COLD_REQUESTS * total:
        place -= 1
        above += counts[place]
    # The bucket at ``place`` and all after it are cold.
    work = [count * model.prefill_seconds(int(_middle(bounds, index))) for index, count in enumerate(counts)]
    if place == 0 or place >= len(bounds) or sum(work) <= 0:
        return None
    return Split(int(bounds[place - 1]) + 1, sum(work[place:]) / sum(work))


def _middle(bounds: Sequence[float], index: int) -> float:
    low = bounds[index - 1] if index else 0.0
    return (low + bounds[index]) / 2 if index < len(bounds) else low
