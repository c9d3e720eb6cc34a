"""Changes of role for the near horizon: prefill gives at once, decode only what it has not needed for a moment."""

from __future__ import annotations

from paceline.api.wire import EngineState, Role
from paceline.policy.scaling.hindsight import NOTHING_SPARED
from paceline.policy.scaling.observation import Counts, EngineLoad, Observation, PolicyState, Want
from paceline.policy.scaling.output_model import OutputModel
from paceline.policy.scaling.reassign import DONOR_SECONDS, donor_seconds, reassign
from paceline.policy.scaling.sizing import Sizing
from paceline.policy.scaling.supply import survey
from paceline.policy.scaling.traffic import Traffic, measure
from tests.policy.scaling.scenes import MODELS, completions, intervals, observation, settings

NOW = 1000.0
READY = Counts(prefill=6, decode=4)


def changed(
    *, needed_before: Counts, ago: float, needed: Counts, running: int = 0, patience: float = DONOR_SECONDS
) -> list[tuple[Role | None, Role]]:
    """The changes of six prefill and four decode engines, when the need is another than some seconds ago."""
    engines = tuple(
        EngineLoad(name=f"{role}-{number}", role=role, state=EngineState.READY)
        for role in (Role.PREFILL, Role.DECODE)
        for number in range(READY.of(role))
    )
    observation = Observation(now=NOW, engines=engines)
    near = {role: needed.of(role) for role in (Role.PREFILL, Role.DECODE)}
    wants = (
        Want(at=NOW - ago, near=needed_before, far=needed_before, ready=READY),
        Want(at=NOW, near=needed, far=needed, ready=READY),
    )
    sizing = Sizing(
        observation=observation,
        settings=settings(),
        near={},
        far={},
        near_wanted=near,
        near_steady=near,
        near_running=running,
        bounded=near,
        unconfirmed=0,
        hindsight=NOTHING_SPARED,
        wanted=near,
        allowed=near,
        wants=wants,
        donor_seconds=patience,
        indebted=False,
        plenty=None,
        losses=dict.fromkeys((engine.name for engine in engines), 0.0),
    )
    (pool,) = survey(observation, settings())
    flips, _ = reassign(pool, sizing)
    return [(flip.before, flip.after) for flip in flips]


def test_decode_gets_engines_that_prefill_needed_a_moment_ago() -> None:
    flips = changed(needed_before=Counts(prefill=6, decode=4), ago=5.0, needed=Counts(prefill=4, decode=6))
    assert flips == [(Role.PREFILL, Role.DECODE)] * 2


def test_prefill_does_not_get_engines_that_decode_needed_a_moment_ago() -> None:
    assert not changed(needed_before=Counts(prefill=6, decode=4), ago=5.0, needed=Counts(prefill=8, decode=2))


def test_prefill_gets_engines_that_decode_has_not_needed_for_long_enough() -> None:
    flips = changed(
        needed_before=Counts(prefill=6, decode=4), ago=DONOR_SECONDS + 1, needed=Counts(prefill=8, decode=2)
    )
    assert flips == [(Role.DECODE, Role.PREFILL)] * 2


def test_prefill_does_not_get_engines_that_decode_needed_within_the_window_while_the_mix_stays_as_it_is() -> None:
    assert not changed(
        needed_before=Counts(prefill=6, decode=4),
        ago=DONOR_SECONDS + 1,
        needed=Counts(prefill=8, decode=2),
        patience=settings().demand_window_seconds,
    )


def traffic(counts: list[int]) -> Traffic:
    """So many requests in each scrape."""
    seen = observation(1.0, arrivals=intervals(counts), completions=completions(counts))
    return measure(seen, PolicyState(), settings(), MODELS, OutputModel.of(()))


def test_decode_gives_engines_at_once_where_the_mix_moves_towards_prefill_and_else_after_the_whole_window() -> None:
    steady = traffic([25] * 60)
    assert not steady.to_prefill
    assert donor_seconds(steady, settings()) == settings().demand_window_seconds
    fallen = traffic([50] * 40 + [5] * 20)
    assert fallen.to_prefill
    assert donor_seconds(fallen, settings()) == DONOR_SECONDS


def after(flips: list[tuple[Role | None, Role]]) -> tuple[int, int]:
    """Prefill and decode engines when they are done."""
    more = sum(1 if role is Role.DECODE else -1 for _, role in flips)
    return READY.prefill - more, READY.decode + more


BURST = Counts(prefill=40, decode=4)
"""Far more prompts at once than engines, of which decode would get one by its share."""


def test_a_shortage_of_both_is_shared() -> None:
    flips = changed(needed_before=BURST, ago=DONOR_SECONDS + 1, needed=BURST)
    assert after(flips) == (9, 1)


def test_a_shortage_takes_no_engine_that_decode_needed_a_moment_ago() -> None:
    flips = changed(needed_before=Counts(prefill=40, decode=12), ago=DONOR_SECONDS - 1, needed=BURST)
    assert after(flips) == (7, 3)


def test_a_burst_of_prompts_takes_no_engine_that_streams_need() -> None:
    flips = changed(needed_before=BURST, ago=DONOR_SECONDS + 1, needed=BURST, running=3)
    assert after(flips) == (7, 3)


def test_streams_that_need_more_than_half_of_the_engines_leave_the_others_their_share() -> None:
    both = Counts(prefill=30, decode=30)
    flips = changed(needed_before=both, ago=DONOR_SECONDS + 1, needed=both, running=30)
    assert after(flips) == (5, 5)
