"""How many decode engines: the smallest number at which ITL, the batch limit and KV memory all hold.

In steady state an engine that emits x = λ·E[o]/D tokens a second with a batch of B sequences satisfies
B = x·step(B, B·ctx): each sequence gets one token a step. At a fixed mean context step is affine in B, s₀ + s₁·B, so
B = x·s₀/(1 − x·s₁), and x·s₁ ≥ 1 means that no batch is large enough. B falls as D grows, so each limit on B turns into
a smallest D by itself: D ≥ λ·E[o]·step(B_max)/B_max.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


class StepModel(Protocol):
    """The part of an engine's performance model that decode sizing needs."""

    def step_seconds(self, sequences: float, context_tokens: float, /) -> float:
        """Duration of one decode step. Affine in both arguments from one sequence on."""
        ...


@dataclass(frozen=True, slots=True)
class DecodeDemand:
    """What decode engines have to do."""

    request_rate: float
    """Requests a second."""
    output_tokens: float
    """Mean output tokens a request."""
    context_tokens: float
    """Mean context of a running sequence: output-weighted mean of prompt + output/2."""

    @property
    def token_rate(self) -> float:
        """Output tokens a second."""
        return self.request_rate * self.output_tokens


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What one engine must not exceed."""

    itl_seconds: float
    max_sequences: int
    kv_capacity_tokens: int
    kv_usage: float = 0.9
    """Share of the KV capacity that is planned with."""
    kv_spread: float = 2.0
    """z in B·ctx·(1 + z/√B): how many standard deviations above its mean the total context may rise."""


@dataclass(frozen=True, slots=True)
class DecodeSizing:
    """Engines that each limit demands by itself. ``math.inf`` where no number of engines meets it."""

    itl: float
    batch: float
    kv: float

    @property
    def engines(self) -> float:
        """Engines that meet every limit."""
        return max(self.itl, self.batch, self.kv)

    @property
    def bound_by(self) -> str:
        """Name of the limit that demands most; ``itl`` before ``kv`` before ``batch`` on a tie."""
        return max((self.itl, 2, "itl"), (self.kv, 1, "kv"), (self.batch, 0, "batch"))[2]


def batch_size(model: StepModel, demand: DecodeDemand, engines: int) -> float:
    """Mean number of running sequences per engine, the fixed point above; infinite when ``engines`` can't keep up."""
    if engines < 1:
        raise ValueError(f"engines must be at least 1, not {engines}")
    base, slope = _affine(model, demand.context_tokens)
    rate = demand.token_rate / engines
    if rate * slope >= 1:
        return math.inf
    return rate * base / (1 - rate * slope)


def size_decode(model: StepModel, demand: DecodeDemand, limits: DecodeLimits) -> DecodeSizing:
    """Smallest number of engines that each limit demands. No traffic demands 0."""
    if demand.token_rate == 0:
        return DecodeSizing(0, 0, 0)
    base, slope = _affine(model, demand.context_tokens)
    itl_batch = (limits.itl_seconds - base) / slope if slope > 0 else math.inf
    return DecodeSizing(
        itl=_engines_for(itl_batch, base, slope, demand.token_rate),
        batch=_engines_for(limits.max_sequences, base, slope, demand.token_rate),
        kv=_engines_for(_kv_batch(demand.context_tokens, limits), base, slope, demand.token_rate),
    )


def _affine(model: StepModel, context: float) -> tuple[float, float]:
    one = model.step_seconds(1, context)
    slope = model.step_seconds(2, 2 * context) - one
    return one - slope, slope


def _engines_for(batch: float, base: float, slope: float, token_rate: float) -> float:
    """Engines at which the batch does not exceed ``batch``."""
    if batch <= 0:
        return math.inf
    seconds_per_token = slope if math.isinf(batch) else (base + slope * batch) / batch
    # One part in 10⁹ forgives rounding, so that a load which fits exactly does not ask for one engine more.
    return max(1, math.ceil(token_rate * seconds_per_token * (1 - 1e-9)))


def _kv_batch(context: float, limits: DecodeLimits) -> float:
    """Largest B with B·ctx·(1 + z/√B) ≤ usage · capacity: a quadratic in √B."""
    budget = limits.kv_usage * limits.kv_capacity_tokens
    if context <= 0:
        return math.inf
    root = (-limits.kv_spread + math.sqrt(limits.kv_spread**2 + 4 * budget / context)) / 2
    return root * root
