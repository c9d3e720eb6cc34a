"""How many engines that do both: prefill and decode take the same steps, so each makes the other slower.

An engine that spends the share u of its time on prefill has 1 − u left for decode steps, so a mean ITL of L needs
steps of L·(1 − u); and a prompt's chunks each carry the batch that decodes along. Called by the planner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from paceline.api.wire import Role
from paceline.policy.scaling.decision import Demand, Limit
from paceline.policy.scaling.decode_sizing import DecodeLimits, batch_size, size_decode
from paceline.policy.scaling.demand import Request
from paceline.policy.scaling.needs import Need, decode_demand, offered_load
from paceline.policy.scaling.perfmodel import EngineProfile
from paceline.policy.scaling.prefill_sizing import (
    PrefillArrival,
    PrefillObjective,
    ReplayOutcome,
    replay,
    search_engines,
)


def aggregated_need(
    requests: Sequence[Request],
    objective: PrefillObjective,
    limits: DecodeLimits,
    profile: EngineProfile,
    *,
    seconds: float,
    at_most: int,
    guess: int,
) -> Need:
    """Engines for requests within a window of ``seconds``; ``at_most`` when no number up to it is enough."""
    if not requests:
        return Need(0, Limit.TTFT, tuple(_demand(limit, 0) for limit in (Limit.TTFT, Limit.ITL, Limit.KV_MEMORY)))
    load = offered_load(requests, seconds)
    demand = decode_demand(requests, seconds=seconds)
    # An ITL that one sequence by itself misses can't be met by more engines: it is not chased.
    meets_itl = profile.step_seconds(1, round(demand.context_tokens)) < limits.itl_seconds

    def decode_of(engines: int) -> tuple[Limit, float]:
        """Engines that decode would need if each spent this share of its time on prefill."""
        free = 1 - load / engines
        if free <= 0:
            return Limit.TTFT, math.inf
        sizing = size_decode(profile, demand, replace(limits, itl_seconds=limits.itl_seconds * free))
        kv = max(sizing.kv, sizing.batch) / free
        itl = sizing.itl / free if meets_itl else 0.0
        return (Limit.ITL, itl) if itl > kv else (Limit.KV_MEMORY, kv)

    def outcome_of(engines: int) -> ReplayOutcome:
        batch = min(batch_size(profile, demand, engines), limits.max_sequences)
        along = profile.step_sequence * batch + profile.step_context * batch * demand.context_tokens
        slowed = [PrefillArrival(one.seconds, one.service_seconds + along) for one in requests]
        outcome = replay(slowed, engines, objective)
        if decode_of(engines)[1] <= engines:
            return outcome
        return ReplayOutcome(engines, max(1, outcome.feasible), 0)

    engines, outcome = search_engines(outcome_of, objective.target, guess=guess, at_least=1, at_most=at_most)
    enough = outcome.attainment >= objective.target
    limit, _ = decode_of(max(1, engines - 1))
    return Need(engines, limit, (_demand(limit, engines if enough else None),), outcome.attainment)


def _demand(limit: Limit, engines: int | None) -> Demand:
    return Demand(role=Role.BOTH, limit=limit, engines=engines)
