"""Who may be out, for how long, and who comes back."""

from __future__ import annotations

import pytest

from paceline.policy.health.quarantine import CLEARED_SECONDS, EXCUSED_SECONDS, Quarantine, Stay


def quarantine(percent: int = 25) -> Quarantine:
    return Quarantine(max_out_percent=percent, first_seconds=30.0)


def out(
    one: Quarantine,
    engine: str,
    now: float = 0.0,
    *,
    act: bool = True,
    engines: int = 8,
    others: tuple[int, ...] = (7,),
) -> Stay | None:
    return one.take_out(engine, "repetition", "words", now, act=act, engines=engines, others=others)


def test_never_more_than_a_share_of_all_engines_is_out() -> None:
    one = quarantine()
    stays = [out(one, f"e{number}") for number in range(4)]
    assert [stay is not None and stay.out for stay in stays] == [True, True, False, False]


def test_one_may_be_out_however_few_there_are_if_another_is_left() -> None:
    stay = out(quarantine(percent=1), "a", engines=2, others=(1,))
    assert stay is not None
    assert stay.out


@pytest.mark.parametrize("others", [(0,), (3, 0)], ids=["alone", "the last one for prompts"])
def test_the_last_one_of_a_role_stays(others: tuple[int, ...]) -> None:
    stay = out(quarantine(), "a", others=others)
    assert stay is not None
    assert not stay.out


def test_in_mode_watch_nobody_is_out() -> None:
    one = quarantine()
    stay = out(one, "a", act=False)
    assert stay is not None
    assert not stay.out
    assert list(one.stays) == ["a"]


def test_each_stay_is_twice_as_long_as_the_one_before_up_to_a_bound() -> None:
    one, now, lengths = quarantine(), 0.0, []
    for _ in range(7):
        stay = out(one, "a", now)
        assert stay is not None
        lengths.append(stay.until - stay.since)
        now = stay.until
        assert one.due(now - 0.1) == []
        assert one.due(now) == [stay]
        assert one.suspects(now) == ["a"]
    assert lengths == [30, 60, 120, 240, 480, 480, 480]


def test_an_engine_that_was_well_for_long_begins_anew() -> None:
    one = quarantine()
    out(one, "a")
    one.due(30)
    assert one.suspects(30 + CLEARED_SECONDS) == []
    stay = out(one, "a", 31 + CLEARED_SECONDS)
    assert stay is not None
    assert stay.until - stay.since == 30


def test_what_turned_out_to_be_the_work_is_not_held_against_it_for_a_while() -> None:
    one = quarantine()
    out(one, "a")
    assert one.excuse("a", 10) is not None
    assert one.suspects(10) == []
    assert out(one, "a", 20) is None
    assert out(one, "a", 10 + EXCUSED_SECONDS) is not None


def test_those_who_are_needed_come_back_before_their_time() -> None:
    one = quarantine()
    out(one, "a")
    assert [stay.engine for stay in one.need(["a", "b"], 1)] == ["a"]
    assert not one.stays


def test_nobody_is_out_twice() -> None:
    one = quarantine()
    out(one, "a")
    assert out(one, "a", 1) is None


def test_engines_that_are_gone_are_forgotten() -> None:
    one = quarantine()
    out(one, "a")
    one.keep(["b"])
    assert not one.stays
    assert one.suspects(100) == []
