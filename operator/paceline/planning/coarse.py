"""A first guess at the engines of one layout, by closed form and replay: which layouts deserve to be simulated.

Caches are left out, so the guess is on the large side for traffic with long common prefixes, and equally so for every
layout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from paceline.planning.layouts import EngineOption
from paceline.policy.scaling.decode_sizing import DecodeDemand, DecodeLimits, size_decode
from paceline.policy.scaling.prefill_sizing import PrefillArrival, PrefillObjective, replay_engines
from paceline.simulator.policies.base import MeanSteps
from paceline.simulator.score import feasible
from paceline.simulator.settings import Objective
from paceline.simulator.workload import Workload

WINDOW_SECONDS: Final = 300.0
"""Decode is sized for the busiest window of this length."""
MAX_REPLAYED: Final = 50_000
"""Requests that are replayed to size prefill; of longer traces, the first so many."""
MAX_ENGINES: Final = 1024


@dataclass(frozen=True, slots=True)
class Guess:
    """Engines that a layout would need, roughly."""

    option: EngineOption
    prefill: int
    decode: int
    ceiling: float = 0.0
    """Share of the requests that an idle engine serves in time: more than that no number of engines attains."""
    problem: str = ""
    """Why this layout can't do it at all; empty if it can."""

    @property
    def gpus(self) -> int:
        """Of all engines. Engines on CPUs count as one."""
        return (self.prefill + self.decode) * max(1, self.option.gpus)


def guess(option: EngineOption, workload: Workload, objective: Objective) -> Guess:
    """Size one layout for a workload."""
    profile = option.profile
    prompts, outputs = workload.sizes()
    arrivals = workload.arrivals
    if profile.step_seconds(1, int(np.median(prompts))) > objective.itl_seconds:
        step = 1000 * profile.step_seconds(1, int(np.median(prompts)))
        return Guess(option, 0, 0, problem=f"one decode step takes {step:.1f} ms by itself")
    longest = int((prompts + outputs).max())
    if longest > profile.kv_capacity_tokens:
        room = profile.kv_capacity_tokens
        return Guess(option, 0, 0, problem=f"its KV cache holds {room:,} tokens, the longest request has {longest:,}")
    bins = np.floor(arrivals / WINDOW_SECONDS).astype(int)
    busiest = bins == np.bincount(bins, weights=outputs).argmax()
    tokens = float(outputs[busiest].sum())
    seconds = max(1.0, min(WINDOW_SECONDS, workload.seconds))
    demand = DecodeDemand(
        request_rate=int(busiest.sum()) / seconds,
        output_tokens=tokens / int(busiest.sum()),
        context_tokens=float(((prompts + outputs / 2) * outputs)[busiest].sum() / tokens),
    )
    limits = DecodeLimits(
        itl_seconds=objective.itl_seconds,
        max_sequences=profile.max_seqs,
        kv_capacity_tokens=profile.kv_capacity_tokens,
    )
    decode = size_decode(MeanSteps(profile), demand, limits)
    if math.isinf(decode.engines):
        return Guess(option, 0, 0, problem=f"no number of engines meets the {decode.bound_by.upper()} limit of decode")
    replayed = [
        PrefillArrival(float(at), profile.prefill_seconds(int(prompt)))
        for at, prompt in zip(arrivals[:MAX_REPLAYED], prompts[:MAX_REPLAYED], strict=True)
    ]
    wanted = PrefillObjective(
        ttft_seconds=objective.ttft_seconds,
        transfer_seconds=profile.transfer_seconds(int(prompts.mean())),
        target=objective.target,
    )
    load = sum(one.service_seconds for one in replayed) / max(1.0, replayed[-1].seconds)
    outcome = replay_engines(replayed, wanted, guess=math.ceil(load) + 1, at_most=MAX_ENGINES)
    ceiling = float(feasible(workload, profile, objective).mean())
    return Guess(option, max(1, outcome.engines), int(max(1, decode.engines)), ceiling)
