"""The factor that replay learns from what was attained."""

from __future__ import annotations

from typing import Any

import pytest

from paceline.policy.scaling.correction import LEAST, MOST, learn
from paceline.policy.scaling.observation import Attainment, Counts, PolicyState, Want
from paceline.policy.scaling.output_model import OutputModel
from paceline.policy.scaling.traffic import Traffic, measure
from tests.policy.scaling.scenes import MODELS, intervals, observation, settings


def traffic(rate: float = 4.0, **changes: Any) -> Traffic:
    return measure(observation(rate, **changes), PolicyState(), settings(), MODELS, OutputModel.of(()))


def had(engines: int, *, queued_seconds: float = 0.0) -> list[Want]:
    ready = Counts(prefill=engines, decode=2)
    return [Want(at=-1.0, near=Counts(), far=Counts(), ready=ready, queued_seconds=queued_seconds)]


def attained(share: float, requests: int = 3000) -> Attainment:
    return Attainment(requests=requests, ttft=share, itl=1.0, both=share)


def after_windows(number: int, share: float, *, engines: int, decisions: int = 1) -> float:
    """The factor after so many demand windows, with so many decisions in each."""
    factor, seen = 1.0, traffic()
    for _ in range(number * decisions):
        factor = learn(factor, seen, attained(share), had(engines), since=300.0 - 300.0 / decisions)
    return factor


def test_fewer_in_time_than_the_replay_promises_raises_the_load_it_sees() -> None:
    assert 1.05 < after_windows(1, 0.9, engines=4) <= MOST


def test_what_a_window_teaches_does_not_depend_on_how_often_one_decides() -> None:
    often, once = after_windows(1, 0.95, engines=4, decisions=20), after_windows(1, 0.95, engines=4)
    assert often == pytest.approx(once, rel=0.05)


def test_it_stays_within_what_is_still_a_correction() -> None:
    assert after_windows(20, 0.2, engines=4) == MOST
    assert after_windows(20, 1.0, engines=1) >= LEAST


def test_it_fades_while_all_is_attained() -> None:
    assert 1.0 < learn(1.4, traffic(), attained(1.0), had(10), since=0.0) < 1.4


def test_nothing_is_learned_from_little_from_the_unknown_or_from_a_load_that_changed() -> None:
    bad = attained(0.5)
    jumped = traffic(arrivals=intervals([5] * 40 + [30] * 20))
    assert not jumped.steady
    assert learn(1.2, traffic(), attained(0.5, requests=10), had(4), since=0.0) == 1.2
    assert learn(1.2, traffic(), None, had(4), since=0.0) == 1.2
    assert learn(1.2, traffic(), bad, [], since=0.0) == 1.2
    assert learn(1.2, traffic(), bad, had(4), since=None) == 1.2
    assert learn(1.2, jumped, bad, had(4), since=0.0) == 1.2


def test_nothing_is_learned_from_a_window_that_began_with_a_long_line() -> None:
    bad = attained(0.5)
    assert learn(1.2, traffic(), bad, had(4, queued_seconds=4.1), since=0.0) == 1.2
    short = learn(1.2, traffic(), bad, had(4, queued_seconds=3.9), since=0.0)
    assert short == learn(1.2, traffic(), bad, had(4), since=0.0) > 1.2
    line_of_late = [*had(4), Want(at=1.0, near=Counts(), far=Counts(), ready=Counts(prefill=4), queued_seconds=100.0)]
    assert learn(1.2, traffic(), bad, line_of_late, since=0.0) == short, "it came in the window, and the replay has it"


def test_engines_that_leave_a_long_line_behind_are_no_faster_than_the_replay_takes_them_for() -> None:
    """Else the replay goes on saying that they are enough, the line stays, and nothing is learned because it stays."""
    assert learn(0.8, traffic(), attained(0.2), had(4, queued_seconds=70.0), since=0.0) == 1.0


def busy(*rates: float) -> Traffic:
    """So many requests a second in each minute; only the newest 20,000 can be replayed."""
    return traffic(arrivals=intervals([round(5 * rate) for rate in rates for _ in range(12)]))


def line_at(seconds: float) -> list[Want]:
    """25 engines, all the time, and a long line only then."""
    ready = Counts(prefill=25, decode=2)
    return [
        Want(at=at, near=Counts(), far=Counts(), ready=ready, queued_seconds=100.0 if at == seconds else 0.0)
        for at in (-1.0, 30.0, 60.0, 250.0)
    ]


def test_what_was_attained_before_the_newest_requests_is_not_taken_for_theirs() -> None:
    """A jump of a busy deployment has been missed for minutes, while what can be replayed is all of it after that."""
    seen = busy(100, 100, 100, 100, 100)
    assert seen.begin > 90
    assert seen.measured_from == 0
    assert seen.steady
    bad = attained(0.6, requests=30_000)
    assert learn(1.2, seen, bad, line_at(30.0), since=285.0) == 1.2
    assert learn(0.8, seen, bad, line_at(60.0), since=285.0) == 1.0
    assert learn(1.2, seen, bad, line_at(250.0), since=285.0) > 1.2, "the replay has that line"
    jumped = busy(25, 25, 100, 100, 100)
    assert not jumped.steady
    assert learn(1.2, jumped, bad, line_at(250.0), since=285.0) == 1.2
