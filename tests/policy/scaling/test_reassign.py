"""Changes of role for the near horizon: prefill gives at once, decode only what it has not needed for a moment."""

from __future__ import annotations

from paceline.api.wire import EngineState, Role
from paceline.policy.scaling.observation import Counts, EngineLoad, Observation, Want
from paceline.policy.scaling.reassign import DONOR_SECONDS, reassign
from paceline.policy.scaling.sizing import Sizing
from paceline.policy.scaling.supply import survey
from tests.policy.scaling.scenes import settings

NOW = 1000.0
READY = Counts(prefill=6, decode=4)


def changed(*, needed_before: Counts, ago: float, needed: Counts) -> list[tuple[Role | None, Role]]:
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
        wanted=near,
        allowed=near,
        wants=wants,
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
