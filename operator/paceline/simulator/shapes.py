"""Loads that vary, made from any trace: the cases in which a fixed fleet is wrong half of the time.

Rates are changed by laying copies of the trace over each other and keeping each request with a probability that follows
the shape, so lengths, sessions and reuse stay those of the trace. An inversion changes lengths instead.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from paceline.simulator.workload import JITTER_SECONDS
from paceline.traces.record import Trace, TraceRequest, in_order

INVERSION_SECONDS: Final = 600.0
INVERSION_PROMPTS: Final = 4
"""By how much prompts shrink in every other period."""
INVERSION_OUTPUTS: Final = 12
"""By how much outputs grow in it.

The two are the whole numbers that come nearest to an exchange of the roles: by the closed forms of the engine model
(the gates' own: Qwen3-32B on two H200) the conversation trace keeps 6.0 prefill engines for each decode engine, and
with them 5.5 decode engines for each prefill engine, out of 1.04 times as many. No policy was run to find them.
"""
RAMP_SECONDS: Final = 600.0
RAMP_FACTOR: Final = 5.0
BURST_EVERY_SECONDS: Final = 600.0
BURST_SECONDS: Final = 60.0
BURST_FACTOR: Final = 4.0


def inverted(trace: Trace, seed: int) -> Trace:  # noqa: ARG001 - nothing is drawn
    """Periods of 10 minutes; in every other one prompts are a quarter as long and outputs twelve times.

    So the roles exchange their needs, and what is needed in all stays about the same.
    """

    def invert(request: TraceRequest) -> TraceRequest:
        if not int(request.arrival_seconds // INVERSION_SECONDS) % 2:
            return request
        tokens = max(1, request.input_tokens // INVERSION_PROMPTS)
        return replace(
            request,
            input_tokens=tokens,
            output_tokens=request.output_tokens * INVERSION_OUTPUTS,
            blocks=request.blocks[: -(-tokens // request.block_size)],
        )

    return replace(trace, name=f"{trace.name}, mix inverted", requests=tuple(map(invert, trace.requests)))


def ramped(trace: Trace, seed: int) -> Trace:
    """A third of the time at the trace's rate, up to five times that within 10 minutes, and the rest up there."""
    begin = trace.requests[-1].arrival_seconds / 3

    def factor(seconds: float) -> float:
        return 1 + (RAMP_FACTOR - 1) * min(1.0, max(0.0, (seconds - begin) / RAMP_SECONDS))

    return _at_rates(trace, "ramp", factor, RAMP_FACTOR, seed)


def bursty(trace: Trace, seed: int) -> Trace:
    """Four times the rate for a minute, every 10 minutes, from the fifth minute on."""

    def factor(seconds: float) -> float:
        into = (seconds - BURST_EVERY_SECONDS / 2) % BURST_EVERY_SECONDS
        return BURST_FACTOR if into < BURST_SECONDS else 1.0

    return _at_rates(trace, "bursts", factor, BURST_FACTOR, seed)


SHAPES: Final[Mapping[str, Callable[[Trace, int], Trace]]] = {
    "inversion": inverted,
    "ramp": ramped,
    "bursts": bursty,
}
"""By name, as ``--shape`` takes them."""


def _at_rates(trace: Trace, name: str, factor: Callable[[float], float], most: float, seed: int) -> Trace:
    """``factor(seconds)`` times the rate; ``most`` is the largest factor. Prefixes of each copy are its own."""
    rng = random.Random(f"{seed}/{name}")  # noqa: S311 - reproducible, not secret
    ids = 1 + max((max(request.blocks) for request in trace.requests if request.blocks), default=0)
    requests = []
    for copy in range(math.ceil(most)):
        for request in trace.requests:
            if rng.random() >= factor(request.arrival_seconds) - copy:
                continue
            if not copy:
                requests.append(request)
                continue
            requests.append(
                replace(
                    request,
                    arrival_seconds=request.arrival_seconds + rng.uniform(0, JITTER_SECONDS),
                    blocks=tuple([block + copy * ids for block in request.blocks]),
                )
            )
    return replace(trace, name=f"{trace.name}, {name}", requests=in_order(requests))
