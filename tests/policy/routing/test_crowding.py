"""A decode engine has as many streams as keep to the objective for the time between tokens, and at least as many as
make half of the throughput which it could have at all.
"""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.policy.routing.crowding import HALF, LEAST_SPEED, Crowding, StepShare, crowding
from paceline.policy.routing.fleet import EngineModel, FasterModel
from paceline.policy.scaling.profiles import get_profile, known_profiles

PROFILE = get_profile("qwen3-32b-h200-tp2")
CLOSE = 1e-6
"""Relative: a limit is found through differences of floats."""

models = st.sampled_from([get_profile(name) for name in known_profiles()])
objectives = st.floats(0.001, 0.5)
shares = st.floats(LEAST_SPEED, 1.0)
batches = st.tuples(st.integers(0, 5000), st.integers(0, 50_000_000))
gaps = st.floats(0, 10)


def base_of(model: EngineModel) -> float:
    """A step without streams."""
    return 2 * model.step_seconds(1, 0) - model.step_seconds(2, 0)


def most(limit: Crowding, context_tokens: int) -> int:
    """Streams of such a context that it allows."""
    return next(streams - 1 for streams in count(1) if not limit.allows(streams, streams * context_tokens))


@given(models, objectives, shares, batches, st.integers(0, 100), st.integers(0, 100_000))
def test_what_is_too_much_is_not_mended_by_more(
    model: EngineModel, itl: float, share: float, batch: tuple[int, int], streams: int, tokens: int
) -> None:
    limit = crowding(model, itl, share=share)
    if not limit.allows(*batch):
        assert not limit.allows(batch[0] + streams, batch[1] + tokens)


@given(models, objectives, st.integers(100, 50_000))
def test_as_many_streams_as_are_allowed_keep_to_the_objective_and_one_more_does_not(
    model: EngineModel, itl: float, context_tokens: int
) -> None:
    streams = most(crowding(model, itl), context_tokens)
    longest = max(itl, HALF * base_of(model))
    assert model.step_seconds(max(1, streams), streams * context_tokens) <= longest * (1 + CLOSE)
    assert model.step_seconds(streams + 1, (streams + 1) * context_tokens) > longest * (1 - CLOSE)


@given(models, st.integers(100, 50_000))
def test_an_objective_that_no_step_can_meet_leaves_half_of_the_throughput(
    model: EngineModel, context_tokens: int
) -> None:
    streams = most(crowding(model, 1e-6), context_tokens) + 1  # with the one whose part of the room is left
    added = model.step_seconds(2, 2 * context_tokens) - model.step_seconds(1, context_tokens)
    whole = 1 / added
    reached = streams / (base_of(model) + streams * added)
    assert reached >= whole / 2 * (1 - CLOSE)


def test_a_longer_context_leaves_room_for_fewer_streams() -> None:
    limit = crowding(PROFILE, 0.025)
    assert most(limit, 0) > most(limit, 1000) > most(limit, 10_000) > 0


@given(models, objectives, shares)
def test_engines_that_take_a_share_of_the_time_have_the_limit_of_a_model_that_says_so(
    model: EngineModel, itl: float, share: float
) -> None:
    known, told = crowding(model, itl, share=share), crowding(FasterModel(model, 1 / share), itl)
    assert told.room_seconds == pytest.approx(share * known.room_seconds, rel=CLOSE)
    assert told.stream_seconds == pytest.approx(share * known.stream_seconds, rel=CLOSE)
    assert told.token_seconds == pytest.approx(share * known.token_seconds, rel=CLOSE)


@given(models, objectives, st.tuples(shares, shares).map(sorted), batches)
def test_faster_engines_may_have_whatever_slower_ones_may(
    model: EngineModel, itl: float, speeds: list[float], batch: tuple[int, int]
) -> None:
    fast, slow = (crowding(model, itl, share=share) for share in speeds)
    assert fast.allows(*batch) or not slow.allows(*batch)


@given(st.lists(st.tuples(gaps, gaps), max_size=100))
def test_a_share_is_never_above_one_and_never_below_what_is_believed(ended: list[tuple[float, float]]) -> None:
    share = StepShare()
    for seen, expected in ended:
        share.ended(seen, expected)
        assert LEAST_SPEED <= share.value <= 1.0


@given(st.floats(LEAST_SPEED, 1.0), st.floats(0.001, 1.0))
def test_a_share_becomes_what_streams_show(true: float, expected: float) -> None:
    share = StepShare()
    for _ in range(500):
        share.ended(true * expected, expected)
    assert share.value == pytest.approx(true, abs=0.001)


@given(st.lists(gaps, max_size=50), st.floats(0.001, 1.0), st.floats(1.0, 1000.0))
def test_a_client_that_reads_slowly_never_makes_engines_look_faster(
    before: list[float], expected: float, slowness: float
) -> None:
    share = StepShare()
    for seen in before:
        share.ended(seen, expected)
    known = share.value
    share.ended(slowness * expected, expected)
    assert known <= share.value <= 1.0


def test_a_stream_of_which_nothing_is_expected_says_nothing() -> None:
    share = StepShare()
    share.ended(0.0, 0.0)
    assert share.value == 1.0
