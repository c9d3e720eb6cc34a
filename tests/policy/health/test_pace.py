"""Who is slow at the same load."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from paceline.policy.health.pace import Pace, Slow


def run(ratio: Callable[[str, random.Random], float], *names: str, seconds: int = 120, seed: int = 1) -> list[Slow]:
    """A stream a second on each engine; those that were slow at any time."""
    pace, draw, found = Pace(), random.Random(seed), []
    for now in range(seconds):
        for name in names:
            expected = draw.uniform(0.01, 0.1)
            gap = expected * ratio(name, draw)
            pace.note(name, name[0], float(now), gap_seconds=gap, expected_seconds=expected)
        found += pace.slow(float(now), out={})
    return found


@pytest.mark.parametrize("error", [0.2, 1.0, 7.0])
def test_an_engine_that_is_four_times_as_slow_is_found_whatever_the_model_thinks(error: float) -> None:
    def ratio(name: str, draw: random.Random) -> float:
        return error * (4 if name == "p1" else 1) * draw.uniform(0.8, 1.2)

    assert {one.engine for one in run(ratio, "p1", "p2", "p3")} == {"p1"}


def test_engines_of_one_speed_are_never_slow_even_when_their_times_vary_by_much() -> None:
    for seed in range(30):
        assert run(lambda _, draw: draw.lognormvariate(0, 0.7), "p1", "p2", "p3", seed=seed) == []


def test_a_pause_of_some_seconds_is_no_slowness() -> None:
    pace = Pace()
    for now in range(40):
        for name in ("p1", "p2"):
            slow = name == "p1" and 20 <= now < 26
            pace.note(name, "", float(now), gap_seconds=0.5 if slow else 0.01, expected_seconds=0.01)
        assert pace.slow(float(now), out={}) == []


def test_engines_of_different_hardware_are_not_compared() -> None:
    assert run(lambda name, _: 5.0 if name == "a1" else 1.0, "a1", "b1", "b2") == []


def test_an_engine_without_siblings_is_as_fast_as_it_is() -> None:
    assert run(lambda *_: 50.0, "p1") == []


def test_engines_that_are_gone_are_forgotten() -> None:
    pace = Pace()
    pace.note("a", "", 0.0, gap_seconds=1, expected_seconds=1)
    pace.keep([])
    assert pace.slow(1.0, out={}) == []
