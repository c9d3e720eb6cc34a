"""Decode sizing: each limit holds at the answer and fails with one engine less."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from paceline.policy.scaling.decode_sizing import DecodeDemand, DecodeLimits, batch_size, size_decode


class Affine:
    """step = base + per_sequence·B + per_token·K, in seconds."""

    def __init__(self, base: float, per_sequence: float, per_token: float) -> None:
        self.base, self.per_sequence, self.per_token = base, per_sequence, per_token

    def step_seconds(self, sequences: float, context_tokens: float, /) -> float:
        return self.base + self.per_sequence * sequences + self.per_token * context_tokens


ENGINE = Affine(0.010, 25e-6, 30e-9)
LIMITS = DecodeLimits(itl_seconds=0.025, max_sequences=256, kv_capacity_tokens=700_000)

demands = st.builds(
    DecodeDemand,
    request_rate=st.floats(0.01, 500),
    output_tokens=st.floats(1, 5_000),
    context_tokens=st.floats(1, 120_000),
)


def test_no_traffic_needs_no_engine() -> None:
    assert size_decode(ENGINE, DecodeDemand(0, 300, 4000), LIMITS).engines == 0


def test_an_objective_below_the_shortest_step_can_not_be_met_by_any_number() -> None:
    limits = DecodeLimits(itl_seconds=0.009, max_sequences=256, kv_capacity_tokens=700_000)
    sizing = size_decode(ENGINE, DecodeDemand(3, 300, 4000), limits)
    assert sizing.itl == math.inf
    assert sizing.bound_by == "itl"


def test_long_contexts_are_bound_by_memory() -> None:
    limits = DecodeLimits(itl_seconds=1.0, max_sequences=256, kv_capacity_tokens=700_000)
    assert size_decode(ENGINE, DecodeDemand(20, 500, 100_000), limits).bound_by == "kv"


def test_the_fixed_point_is_one() -> None:
    demand = DecodeDemand(10, 300, 4000)
    batch = batch_size(ENGINE, demand, 2)
    assert batch == pytest.approx(demand.token_rate / 2 * ENGINE.step_seconds(batch, batch * 4000))


@given(demands)
def test_at_the_answer_every_limit_holds(demand: DecodeDemand) -> None:
    engines = size_decode(ENGINE, demand, LIMITS).engines
    assume(not math.isinf(engines))
    batch = batch_size(ENGINE, demand, int(engines))
    forgiven = 1 + 1e-6
    context = batch * demand.context_tokens
    assert ENGINE.step_seconds(batch, context) <= LIMITS.itl_seconds * forgiven
    assert batch <= LIMITS.max_sequences * forgiven
    spread = LIMITS.kv_spread / math.sqrt(batch)
    assert context * (1 + spread) <= LIMITS.kv_usage * LIMITS.kv_capacity_tokens * forgiven


@given(demands)
def test_with_one_engine_less_some_limit_fails(demand: DecodeDemand) -> None:
    engines = size_decode(ENGINE, demand, LIMITS).engines
    assume(1 < engines < math.inf)
    batch = batch_size(ENGINE, demand, int(engines) - 1)
    if math.isinf(batch):
        return
    context = batch * demand.context_tokens
    assert (
        ENGINE.step_seconds(batch, context) > LIMITS.itl_seconds
        or batch > LIMITS.max_sequences
        or context * (1 + LIMITS.kv_spread / math.sqrt(batch)) > LIMITS.kv_usage * LIMITS.kv_capacity_tokens
    )


@given(demands, st.floats(1, 5))
def test_more_traffic_never_needs_fewer_engines(demand: DecodeDemand, factor: float) -> None:
    more = DecodeDemand(demand.request_rate * factor, demand.output_tokens, demand.context_tokens)
    assert size_decode(ENGINE, more, LIMITS).engines >= size_decode(ENGINE, demand, LIMITS).engines
