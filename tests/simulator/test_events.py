"""Virtual time."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.simulator.events import EventLoop


@settings(deadline=None)
@given(st.lists(st.integers(0, 5)))
def test_events_run_in_order_of_time_and_ties_in_order_of_adding(times: list[int]) -> None:
    loop, ran = EventLoop(), []
    for index, seconds in enumerate(times):
        loop.at(seconds, ran.append, (seconds, index))
    while loop.next_at < float("inf"):
        loop.run_next()
    assert ran == sorted(ran)
    assert len(ran) == len(times)


def test_an_event_in_the_past_runs_now() -> None:
    loop, seen = EventLoop(), []
    loop.at(5.0, lambda _: loop.at(1.0, lambda _: seen.append(loop.now)))
    loop.run_next()
    loop.run_next()
    assert seen == [5.0]
