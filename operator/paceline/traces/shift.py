"""A generated load whose mix of work turns over half-way: first much to read and little to write, then the reverse.

For demonstrations and tests of role changes. Poisson arrivals; no two prompts share anything, so that nothing but the
number of engines in each role decides. Same arguments and same ``rng`` state: same load.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from paceline.traces.record import Trace, TraceRequest


@dataclass(frozen=True, slots=True)
class Mix:
    """Requests of one half. Tokens vary by a third around the means, evenly."""

    requests_per_second: float
    prompt_tokens: int
    answer_tokens: int


READING: Final = Mix(requests_per_second=3.5, prompt_tokens=6_000, answer_tokens=30)
WRITING: Final = Mix(requests_per_second=1.2, prompt_tokens=6_000, answer_tokens=1_000)


def generate_shift(*, seconds: float, rng: random.Random, first: Mix = READING, then: Mix = WRITING) -> Trace:
    """``seconds`` of load, the mix turning over in the middle."""
    requests = []
    at = rng.expovariate(first.requests_per_second)
    while at < seconds:
        mix = first if at < seconds / 2 else then
        requests.append(
            TraceRequest(
                arrival_seconds=at,
                input_tokens=_around(mix.prompt_tokens, rng),
                output_tokens=_around(mix.answer_tokens, rng),
            )
        )
        at += rng.expovariate(mix.requests_per_second)
    return Trace("a shift from reading to writing", tuple(requests))


def _around(mean: int, rng: random.Random) -> int:
    return max(1, round(mean * rng.uniform(2 / 3, 4 / 3)))
