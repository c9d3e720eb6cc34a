"""A steady load gets the engines that the last hour would have needed, not those that its worst minutes ask for."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as with_

from paceline.api.wire import Role
from paceline.policy.scaling.hindsight import (
    LEAST_SLICES,
    MEMORY_SECONDS,
    MOST_OVERDRAWN_SECONDS,
    NOTHING_SPARED,
    SLICE_SECONDS,
    Hindsight,
    engines_enough,
    miss_curve,
    missed_with,
    plenty,
    remember_slice,
    spare,
)
from paceline.policy.scaling.observation import (
    Account,
    ArrivalCell,
    ArrivalInterval,
    Attainment,
    MissCurve,
    PolicyState,
)
from paceline.policy.scaling.output_model import OutputModel
from paceline.policy.scaling.planner import plan
from paceline.policy.scaling.settings import EngineModels, PoolSettings, ScalingSettings
from paceline.policy.scaling.traffic import Traffic, measure
from tests.policy.scaling.scenes import MODELS, PROFILE, SCRAPE, observation, settings

MOST = settings().most_engines


def traffic(rate: float = 6.0, *, seconds: float = 300.0, since: float = 0.0) -> Traffic:
    """A window of steady requests that ends at ``since + seconds``."""
    seen = observation(rate, seconds=seconds)
    moved = tuple(
        ArrivalInterval(start=one.start + since, end=one.end + since, cells=one.cells) for one in seen.arrivals
    )
    return measure(
        observation(rate, seconds=seconds, arrivals=moved), PolicyState(), settings(), MODELS, OutputModel.of(())
    )


def curve(*missed: int, requests: int = 100, at: float = 0.0) -> MissCurve:
    """With 1, 2, 3, ... engines so many are late."""
    return MissCurve(at=at, requests=requests, engines=tuple(range(1, len(missed) + 1)), missed=missed)


def hour(*curves: MissCurve) -> list[MissCurve]:
    """Those over and over, for long enough to tell."""
    return list(curves) * LEAST_SLICES


@given(rate=st.floats(0.5, 20), prompt=st.integers(100, 20_000))
def test_with_more_engines_fewer_are_late_and_at_last_none(rate: float, prompt: int) -> None:
    counts = [random.Random(index).randrange(round(2 * rate * SCRAPE) + 1) for index in range(60)]
    arrivals = tuple(
        ArrivalInterval(
            start=SCRAPE * index,
            end=SCRAPE * (index + 1),
            cells=(ArrivalCell(uncached=prompt, cached=0, count=count),) if count else (),
        )
        for index, count in enumerate(counts)
    )
    seen = measure(observation(1, arrivals=arrivals), PolicyState(), settings(), MODELS, OutputModel.of(()))
    made = miss_curve(seen, settings(), MODELS, since=240.0)
    assert made.requests <= sum(counts[48:])
    assert list(made.engines) == sorted(set(made.engines))
    assert all(0 <= missed <= made.requests for missed in made.missed)
    # Of list scheduling's rare anomalies one request more may be late.
    assert all(later <= earlier + 1 for earlier, later in pairwise(made.missed))
    assert made.missed[-1] <= 0.002 * made.requests or made.engines[-1] * 1.1 > MOST


def test_only_what_arrived_in_the_slice_is_counted() -> None:
    calm = (ArrivalCell(uncached=500, cached=0, count=5),)
    burst = (ArrivalCell(uncached=20_000, cached=0, count=40),)
    arrivals = tuple(
        ArrivalInterval(start=SCRAPE * index, end=SCRAPE * (index + 1), cells=burst if index == 47 else calm)
        for index in range(60)
    )
    seen = measure(observation(1, arrivals=arrivals), PolicyState(), settings(), MODELS, OutputModel.of(()))
    with_burst, after_it = (miss_curve(seen, settings(), MODELS, since=since) for since in (235.0, 240.0))
    assert (with_burst.requests, after_it.requests) == (100, 60)
    # Two prefill engines do four of the forty in time; those that can still be saved go before those that are late.
    assert missed_with(with_burst, 3) > 30
    assert missed_with(after_it, 3) == 0


def test_a_slice_is_taken_once_a_minute_and_an_hour_is_remembered() -> None:
    curves: tuple[MissCurve, ...] = ()
    for step in range(400):
        curves = remember_slice(curves, traffic(1, since=step * 15.0), settings(), MODELS, correction=1.0)
    assert len(curves) == MEMORY_SECONDS / SLICE_SECONDS
    assert all(later.at - earlier.at == SLICE_SECONDS for earlier, later in pairwise(curves))
    assert all(one.requests == 60 for one in curves)


@pytest.mark.parametrize(
    "other",
    [
        settings(flexible=False),
        settings(prefill=None, decode=None, both=PoolSettings(max_engines=20, gpus_per_engine=2)),
    ],
    ids=["fixed roles", "both roles in one"],
)
def test_where_engines_do_not_change_roles_nothing_is_remembered(other: object) -> None:
    assert remember_slice((), traffic(), other, MODELS, correction=1.0) == ()  # type: ignore[arg-type] # parametrized


def test_the_misses_that_are_allowed_belong_to_the_minutes_that_cost_most_engines() -> None:
    quiet, busy = curve(10, 0), curve(100, 60, 30, 10, 0)
    # 8% of 200 requests are 16: 10 in the busy minute with four engines, none in the quiet one.
    assert engines_enough(hour(quiet, busy), allowed=0.08, at_most=MOST) == 4
    assert engines_enough(hour(quiet, busy), allowed=0.04, at_most=MOST) == 5
    assert engines_enough(hour(quiet, busy), allowed=0.15, at_most=MOST) == 3


@given(
    slices=st.lists(st.lists(st.integers(0, 100), min_size=1, max_size=8), min_size=LEAST_SLICES, max_size=20),
    allowed=st.floats(0, 1),
    more=st.floats(0, 1),
)
def test_the_more_may_be_missed_the_fewer_engines_are_enough(
    slices: Sequence[list[int]], allowed: float, more: float
) -> None:
    curves = [curve(*sorted(missed, reverse=True)) for missed in slices]
    fewer, most = (engines_enough(curves, allowed=min(1.0, share), at_most=MOST) for share in (allowed + more, allowed))
    assert fewer is not None
    assert most is not None
    assert 1 <= fewer <= most <= MOST


def test_plenty_is_what_would_have_missed_a_fifth_of_what_may_be_missed() -> None:
    busy, quiet = curve(100, 60, 10, 2, 0), curve(0)
    # 1% of 300 requests are 3.
    assert plenty([busy, quiet, quiet], settings()) == 4
    assert plenty([busy, quiet], settings()) is None, "two minutes say nothing"


def test_between_two_sizes_the_misses_lie_on_a_line_and_below_the_first_all_are_late() -> None:
    coarse = MissCurve(at=0.0, requests=50, engines=(4, 8), missed=(20, 4))
    assert [missed_with(coarse, engines) for engines in (3, 4, 5, 6, 8, 20)] == [50, 20, 16, 12, 4, 4]


def test_too_few_slices_or_none_with_requests_say_nothing() -> None:
    assert engines_enough([curve(0)] * (LEAST_SLICES - 1), allowed=0.05, at_most=MOST) is None
    assert engines_enough([curve(requests=0)] * LEAST_SLICES, allowed=0.05, at_most=MOST) is None


KNOWN = Attainment(requests=1000, ttft=0.97, itl=1.0, both=0.97)
WANTED = {Role.PREFILL: 6, Role.DECODE: 2}
ENOUGH_WITH_FIVE = hour(curve(100, 90, 60, 30, 0))


def test_a_steady_load_is_spared_what_the_last_hour_did_without() -> None:
    found = spare(WANTED, ENOUGH_WITH_FIVE, traffic(), Account(), settings(), KNOWN)
    assert found == Hindsight(spared=3, enough=5, seconds=LEAST_SLICES * SLICE_SECONDS)


@pytest.mark.parametrize(
    ("changed", "account"),
    [
        ({"steady": False}, Account()),
        ({}, Account(planned=0.2, overdrawn=0.2 * (MOST_OVERDRAWN_SECONDS + 1))),
    ],
    ids=["the load changes", "more was missed than expected"],
)
def test_hindsight_is_not_trusted(changed: dict[str, bool], account: Account) -> None:
    seen = replace(traffic(), **changed)  # type: ignore[arg-type] # parametrized
    assert spare(WANTED, ENOUGH_WITH_FIVE, seen, account, settings(), KNOWN) == NOTHING_SPARED


@pytest.mark.parametrize("measured", [None, with_(KNOWN, requests=49)], ids=["not known", "of too few requests"])
def test_nothing_is_spared_while_nobody_knows_what_is_missed(measured: Attainment | None) -> None:
    assert spare(WANTED, ENOUGH_WITH_FIVE, traffic(), Account(), settings(), measured) == NOTHING_SPARED


def test_what_the_season_announces_is_not_spared() -> None:
    seen = traffic()
    announced = replace(seen, outlook=with_(seen.outlook, from_season=True))
    assert spare(WANTED, ENOUGH_WITH_FIVE, announced, Account(), settings(), KNOWN) == NOTHING_SPARED


@pytest.mark.parametrize(
    ("changed", "models"),
    [
        (settings(ttft_seconds=1.0), MODELS),
        (settings(itl_seconds=0.02), MODELS),
        (settings(), EngineModels.same(replace(PROFILE, prefill_token=2 * PROFILE.prefill_token))),
    ],
    ids=["another TTFT", "another ITL", "other engines"],
)
def test_another_objective_or_other_engines_begin_anew(changed: ScalingSettings, models: EngineModels) -> None:
    known = remember_slice((), traffic(), settings(), MODELS, correction=1.0)
    assert remember_slice(known, traffic(since=60.0), settings(), MODELS, correction=1.0)[0] == known[0]
    (one,) = remember_slice(known, traffic(since=60.0), changed, models, correction=1.0)
    assert one.basis != known[0].basis


def test_decode_keeps_what_it_asks_for_and_prefill_its_minimum() -> None:
    wanted = {Role.PREFILL: 3, Role.DECODE: 6}
    assert spare(wanted, ENOUGH_WITH_FIVE, traffic(), Account(), settings(), KNOWN).spared == 2
    least = settings(prefill=PoolSettings(min_engines=2, max_engines=20, gpus_per_engine=2))
    assert spare(wanted, ENOUGH_WITH_FIVE, traffic(), Account(), least, KNOWN).spared == 1


def test_the_record_says_that_fewer_would_have_done() -> None:
    seen = observation(20.0, prefill=1, decode=2, attainment=KNOWN)
    # So many that the slice which this observation adds hardly counts.
    (like,) = remember_slice((), traffic(), settings(), MODELS, correction=1.0)
    known = tuple(with_(one, basis=like.basis) for one in hour(curve(100_000, 100_000, 0, requests=100_000)))
    plain, _ = plan(seen, PolicyState(), settings(), MODELS)
    sparing, _ = plan(seen, PolicyState(curves=known), settings(), MODELS)
    assert sum(start.count for start in plain.starts) > 1
    assert not sparing.starts
    assert sparing.explanation.demands == plain.explanation.demands
    assert sparing.explanation.bound_by == plain.explanation.bound_by
    (note,) = [one for one in sparing.explanation.rejected if one.action.startswith("have ")]
    assert note.why == "the load is steady, and 3 engines would have met the objective over the last 11 min"
