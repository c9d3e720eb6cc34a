"""How many engines of each role some arrivals need: prefill and decode sizing put together.

Prefill is the replay of :mod:`~paceline.policy.scaling.prefill_sizing`. Decode is the fixed point of
:mod:`~paceline.policy.scaling.decode_sizing` for the mean, and a replay of its own for the bursts that the mean does
not show: every request adds one sequence and its context for as long as its answer takes at the ITL objective, and D
engines share that work evenly, so a request's mean ITL is ``base + (its mean of b'·B + c'·K) / D``. The smallest D
is then a quantile.

Called by the planner for both horizons, and by ``paceline plan``.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import Final

from paceline.api.wire import Role
from paceline.policy.quantiles import reached
from paceline.policy.scaling.decision import Demand, Limit
from paceline.policy.scaling.decode_sizing import DecodeDemand, DecodeLimits, DecodeSizing, size_decode
from paceline.policy.scaling.demand import Request, between
from paceline.policy.scaling.perfmodel import EngineProfile
from paceline.policy.scaling.prefill_sizing import (
    Arrival,
    PrefillObjective,
    replay_engines,
)
from paceline.policy.scaling.settings import EngineModels, ScalingSettings

PLANNED_MISSES: Final = 0.8
"""Share of the allowed misses that is planned with; the rest is for what no plan sees: late pods, the first burst, and
chance, which takes less where there are many requests (:mod:`~paceline.policy.scaling.overdraft`).
"""
TTFT_MISSES: Final = 0.7
"""Share of the planned misses that prefill gets; decode gets the rest. They are missed by different
requests, and waiting comes in bursts while the ITL of a batch is much the same for all.
"""
DECODE_WAITS: Final = 2.0
"""Requests that may find too many streams, for each planned miss, where the router lets them wait for a place among
those: most are in time all the same, and nobody else is slowed down.
"""
LEAST_DECODED: Final = 0.5
"""Share of the requests that decode is planned for at least, however low the target is."""


@dataclass(frozen=True, slots=True)
class Need:
    """Engines that one role needs."""

    engines: float
    """``math.inf`` when no number is enough."""
    limit: Limit
    demands: tuple[Demand, ...]
    attainment: float = 1.0
    """Of feasible requests within the TTFT objective, with those engines."""
    at_once: float = 0.0
    """Engines for that and for what waits, or runs, already; 0 where that is not asked for."""


def prefill_objective(
    requests: Sequence[Request], settings: ScalingSettings, models: EngineModels, *, misses: float = PLANNED_MISSES
) -> PrefillObjective:
    """What prefill is sized for: the TTFT less what comes after the prefill, at the median prompt.

    ``misses``: share of the allowed ones that is planned with.
    """
    prompts = sorted(request.prompt for request in requests)
    typical = prompts[len(prompts) // 2] if prompts else 0
    after = models.prefill.transfer_seconds(typical) + models.decode.step_seconds(1, typical)
    return PrefillObjective(
        ttft_seconds=settings.ttft_seconds,
        transfer_seconds=0.0 if settings.aggregated else min(after, settings.ttft_seconds / 2),
        target=ttft_target(settings, misses),
        late_age_bound_seconds=settings.late_age_bound_seconds,
    )


def ttft_target(settings: ScalingSettings, misses: float = PLANNED_MISSES) -> float:
    """The share that prefill is planned for, so that both objectives together are met by the target share."""
    return 1 - TTFT_MISSES * misses * (1 - settings.target)


def decode_target(settings: ScalingSettings, misses: float = PLANNED_MISSES) -> float:
    """The share of requests whose ITL decode is planned for, if each got its place among the streams at once."""
    share = DECODE_WAITS if settings.hold_for_itl else 1 - TTFT_MISSES
    return max(LEAST_DECODED, 1 - share * misses * (1 - settings.target))


def offered_load(arrivals: Sequence[Arrival], seconds: float) -> float:
    """Engines that prefill keeps busy all the time: engine seconds a second."""
    return math.fsum(arrival.service_seconds for arrival in arrivals) / seconds if seconds > 0 else 0.0


def prefill_need(
    arrivals: Sequence[Arrival], objective: PrefillObjective, *, seconds: float, at_most: int, guess: int
) -> Need:
    """Engines for arrivals within a window of ``seconds``, searched from ``guess`` on."""
    if not arrivals:
        return no_prefill()
    outcome = replay_engines(arrivals, objective, guess=guess, at_most=at_most)
    # A window may hide that requests beyond saving pile up: engines must at least keep up with all the work.
    engines = max(outcome.engines, math.floor(offered_load(arrivals, seconds)) + 1)
    return prefill_result(engines, outcome.attainment, enough=outcome.attainment >= objective.target)


def prefill_result(engines: int, attainment: float, *, enough: bool) -> Need:
    """A need for prefill engines; ``enough`` says whether they meet the objective."""
    demand = Demand(role=Role.PREFILL, limit=Limit.TTFT, engines=engines if enough else None)
    return Need(engines, Limit.TTFT, (demand,), attainment)


def no_prefill() -> Need:
    """Nothing arrives."""
    return prefill_result(0, 1.0, enough=True)


def decode_limits(settings: ScalingSettings, profile: EngineProfile) -> DecodeLimits:
    """What a decode engine must not exceed."""
    return DecodeLimits(
        itl_seconds=settings.itl_seconds,
        max_sequences=profile.max_seqs,
        kv_capacity_tokens=profile.kv_capacity_tokens,
        kv_usage=settings.kv_usage,
    )


def decode_demand(requests: Sequence[Request], *, seconds: float) -> DecodeDemand:
    """What ``requests`` within a window of ``seconds`` ask of decode engines."""
    tokens = math.fsum(request.output for request in requests)
    if not tokens or seconds <= 0:
        return DecodeDemand(0.0, 0.0, 0.0)
    context = math.fsum(request.output * (request.prompt + request.output / 2) for request in requests)
    return DecodeDemand(len(requests) / seconds, tokens / len(requests), context / tokens)


def decode_needs(
    requests: Sequence[Request],
    limits: DecodeLimits,
    profile: EngineProfile,
    *,
    edges: Sequence[float],
    target: float,
) -> list[Need]:
    """Engines for the requests that arrived in each slice of time: those between two consecutive ``edges``.

    Requests before the first edge only set the scene: their answers still run.
    """
    replayed = replay_decode(requests, profile, limits.itl_seconds)
    peaks = decode_peaks(replayed, limits, profile, target=target, edges=edges)
    result = []
    for begin, end, peak in zip(edges, edges[1:], peaks, strict=False):
        demand = decode_demand(between(requests, begin, end), seconds=end - begin)
        mean = size_decode(profile, demand, limits)
        sizing = DecodeSizing(max(mean.itl, peak.itl), max(mean.batch, peak.batch), max(mean.kv, peak.kv))
        result.append(_decode_result(sizing))
    return result


def running_need(sequences: int, context_tokens: float, limits: DecodeLimits, profile: EngineProfile) -> float:
    """Decode engines that what runs already needs: their work can't be taken back."""
    room = limits.itl_seconds - profile.step_base
    work = profile.step_sequence * sequences + profile.step_context * context_tokens
    by_kv = context_tokens / (limits.kv_usage * limits.kv_capacity_tokens)
    return max(work / room if room > 0 else 0.0, sequences / limits.max_sequences, by_kv)


def _decode_result(sizing: DecodeSizing) -> Need:
    by_limit = ((Limit.ITL, sizing.itl), (Limit.KV_MEMORY, sizing.kv), (Limit.BATCH, sizing.batch))
    # An ITL that an empty engine misses can't be met by more engines: it is reported, and not chased.
    finite = [(math.ceil(engines), limit) for limit, engines in by_limit if not math.isinf(engines)]
    engines, limit = max(finite, default=(math.inf, Limit.ITL), key=itemgetter(0))
    return Need(
        engines,
        limit,
        tuple(
            Demand(role=Role.DECODE, limit=limit, engines=None if math.isinf(engines) else math.ceil(engines))
            for limit, engines in by_limit
        ),
    )


@dataclass(frozen=True, slots=True)
class DecodeReplay:
    """What each request of some arrivals would meet if decode kept to the pace of the objective, in their order."""

    begins: Sequence[float]
    """When it arrived."""
    batches: Sequence[int]
    """Sequences that run when it begins, of all engines together."""
    contexts: Sequence[float]
    """Tokens of context that they hold."""
    works: Sequence[float]
    """The mean of b'·B + c'·K over its life: seconds that it adds to a step on one engine."""


def replay_decode(requests: Sequence[Request], profile: EngineProfile, itl_seconds: float) -> DecodeReplay:
    """Let every answer run for as long as it takes at ``itl_seconds`` a token."""
    sequence, token, itl = profile.step_sequence, profile.step_context, itl_seconds
    begins = [request.seconds for request in requests]
    tokens = [request.prompt + request.output / 2 for request in requests]
    total = len(requests)
    ends = sorted(zip([one.seconds + one.output * itl for one in requests], range(total), strict=True))
    batches, contexts, works = [0] * total, [0.0] * total, [0.0] * total
    sequences, context, integral = 0, 0.0, 0.0
    at = begins[0] if begins else 0.0
    upcoming = 0
    for end, ended in ends:
        # Those that begin at the moment when one ends come after it.
        while upcoming < total and begins[upcoming] < end:
            begin = begins[upcoming]
            integral += (begin - at) * (sequence * sequences + token * context)
            at = begin
            batches[upcoming] = sequences = sequences + 1
            contexts[upcoming] = context = context + tokens[upcoming]
            works[upcoming] = integral
            upcoming += 1
        integral += (end - at) * (sequence * sequences + token * context)
        at = end
        sequences -= 1
        context -= tokens[ended]
        works[ended] = (integral - works[ended]) / (end - begins[ended])
    return DecodeReplay(begins, batches, contexts, works)


def decode_peaks(
    replayed: DecodeReplay, limits: DecodeLimits, profile: EngineProfile, *, target: float, edges: Sequence[float]
) -> list[DecodeSizing]:
    """Engines by quantiles over the requests of each slice: those that arrived between two consecutive ``edges``."""
    room = limits.itl_seconds - profile.step_base
    bounds = [*(bisect_left(replayed.begins, edge) for edge in edges[:-1]), len(replayed.begins)]
    return [
        DecodeSizing(
            itl=reached(replayed.works[first:last], target) / room if room > 0 else math.inf,
            batch=reached(replayed.batches[first:last], target) / limits.max_sequences,
            kv=reached(replayed.contexts[first:last], target) / (limits.kv_usage * limits.kv_capacity_tokens),
        )
        for first, last in pairwise(bounds)
    ]
