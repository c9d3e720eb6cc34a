"""Cutting a window out of a trace, changing its rate, and leaving out what a model is too short for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.errors import ConfigError
from paceline.traces.record import Trace, TraceRequest

TRACE = Trace("t", tuple(TraceRequest(float(at), 100 * at + 1, 10) for at in range(10)), malformed=3)


def test_a_window_is_half_open_and_counts_from_its_start() -> None:
    window = TRACE.window(start_seconds=2, seconds=3)
    assert [request.input_tokens for request in window.requests] == [201, 301, 401]
    assert [request.arrival_seconds for request in window.requests] == [0.0, 1.0, 2.0]


def test_a_window_still_says_how_many_rows_of_the_file_were_bad() -> None:
    assert TRACE.window(start_seconds=0, seconds=1).malformed == 3


def test_an_empty_window_is_refused_and_says_where_the_trace_ends() -> None:
    with pytest.raises(ConfigError, match=r"between minute 1 and minute 2; the last one arrives at minute 0\.1"):
        TRACE.window(start_seconds=60, seconds=60)


def test_a_rate_factor_divides_the_arrival_times() -> None:
    assert [r.arrival_seconds for r in TRACE.at_rate(2).requests][:3] == [0.0, 0.5, 1.0]
    assert TRACE.at_rate(1) is TRACE


@pytest.mark.parametrize("factor", [0, -1, float("nan")])
def test_a_rate_factor_that_is_not_positive_is_a_programming_error(factor: float) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        TRACE.at_rate(factor)


def test_requests_too_long_for_the_model_are_left_out_and_counted() -> None:
    fitting, left_out = TRACE.fitting(411)
    assert [request.input_tokens for request in fitting.requests] == [1, 101, 201, 301, 401]
    assert left_out == 5


def ticked(*arrivals: float) -> Trace:
    return Trace("t", tuple(TraceRequest(at, 100, 10) for at in arrivals))


def test_requests_of_one_tick_are_spread_evenly_until_the_next() -> None:
    spread = ticked(0, 0, 0, 3, 9, 9).spread_ticks()
    assert [request.arrival_seconds for request in spread.requests] == [0, 1, 2, 3, 9, 12]


def test_a_trace_of_one_tick_stays_as_it_is() -> None:
    assert ticked(5, 5).spread_ticks() == ticked(5, 5)


@given(st.lists(st.integers(0, 20), max_size=40).map(sorted))
def test_spreading_keeps_the_order_and_every_request_within_its_tick(arrivals: list[int]) -> None:
    before = [float(at) for at in arrivals]
    after = [request.arrival_seconds for request in ticked(*before).spread_ticks().requests]
    assert after == sorted(after)
    ticks = sorted(set(before))
    for was, now in zip(before, after, strict=True):
        later = [tick for tick in ticks if tick > was]
        assert was <= now
        assert not later or now < later[0]
