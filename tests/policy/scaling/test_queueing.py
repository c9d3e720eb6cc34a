"""Closed forms against values that can be checked by hand, and their order in load and servers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.policy.scaling.queueing import erlang_c, mean_wait_seconds, probability_wait_over


def test_with_one_server_the_probability_of_waiting_is_the_load() -> None:
    assert erlang_c(1, 0.7) == pytest.approx(0.7)


def test_two_servers_by_hand() -> None:
    # C(2, a) = a² / (2 + a): from (a²/2)(2/(2−a)) / (1 + a + (a²/2)(2/(2−a))).
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)


def test_an_overloaded_queue_always_waits() -> None:
    assert erlang_c(3, 3.0) == 1.0
    assert mean_wait_seconds(3, 3.0, 1.0, 1.0, 1.0) == math.inf
    assert probability_wait_over(5.0, 3, 3.0, math.inf) == 1.0


def test_no_traffic_is_a_number() -> None:
    assert erlang_c(4, 0.0) == 0.0
    assert mean_wait_seconds(4, 0.0, 0.0, 1.0, 1.0) == 0.0
    assert probability_wait_over(0.0, 4, 0.0, 0.0) == 0.0


def test_the_mean_wait_of_m_m_1_and_of_m_d_1() -> None:
    # M/M/1: ρ·S/(1−ρ). M/D/1 is half of that (Pollaczek and Khinchine).
    assert mean_wait_seconds(1, 0.5, 1.0, 1.0, 1.0) == pytest.approx(1.0)
    assert mean_wait_seconds(1, 0.5, 1.0, 1.0, 0.0) == pytest.approx(0.5)


@pytest.mark.parametrize(("servers", "offered"), [(0, 0.5), (2, -1.0), (2, math.nan)])
def test_nonsense_is_refused(servers: int, offered: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        erlang_c(servers, offered)


@given(st.integers(1, 2000), st.floats(0, 0.999))
def test_the_probability_is_one_and_falls_with_more_servers(servers: int, utilisation: float) -> None:
    offered = servers * utilisation
    here = erlang_c(servers, offered)
    assert 0.0 <= here <= 1.0
    assert erlang_c(servers + 1, offered) <= here + 1e-12


@given(st.integers(1, 50), st.floats(0.01, 0.98), st.floats(0, 10), st.floats(0, 10), st.floats(0, 60))
def test_a_tail_is_a_probability_and_falls_with_time(
    servers: int, utilisation: float, arrival_scv: float, service_scv: float, seconds: float
) -> None:
    rate = servers * utilisation
    wait = mean_wait_seconds(servers, rate, 1.0, arrival_scv, service_scv)
    now = probability_wait_over(seconds, servers, rate, wait)
    assert 0.0 <= now <= 1.0
    assert probability_wait_over(seconds + 1, servers, rate, wait) <= now
