"""Goodput under more load than can be served, in virtual time. Over HTTP: ``python -m tests.bench.overload``."""

from __future__ import annotations

import random

import pytest

from paceline.api.wire import Late
from paceline.simulator.policies.static import StaticPolicy
from paceline.simulator.report import attainment
from paceline.simulator.router import RouterSettings
from paceline.simulator.simulation import Simulation
from paceline.simulator.workload import Workload
from paceline.traces.record import TraceRequest
from tests.simulator.scenes import settings, trace_of

CAPACITY = 20.0
"""Requests a second that two prefill engines compute."""
PROMPT_TOKENS, OUTPUT_TOKENS = 2000, 64
WARM_UP, SECONDS = 160.0, 220.0


def goodput(times_capacity: float, late: Late) -> float:
    """Requests a second within the objective, once the overload has lasted."""
    rng, at, requests = random.Random(1), 0.0, []
    while (at := at + rng.expovariate(times_capacity * CAPACITY)) < SECONDS:
        requests.append(TraceRequest(at, PROMPT_TOKENS, OUTPUT_TOKENS))
    load = Workload(trace_of(*requests))
    run = Simulation(load, StaticPolicy(2, 3), settings(router=RouterSettings(ttft_seconds=2.0, late=late))).run()
    good = attainment(run).both[load.arrivals >= WARM_UP]
    return float(good.sum()) / (SECONDS - WARM_UP)


@pytest.mark.parametrize("late", [Late.LIMIT, Late.REFUSE])
def test_at_ten_times_the_capacity_nine_tenths_of_the_peak_are_left(late: Late) -> None:
    peak = max(goodput(rate, late) for rate in (0.9, 1.1))
    assert peak > 0.9 * CAPACITY
    assert goodput(10.0, late) >= 0.9 * peak


def test_without_a_limit_on_late_requests_nothing_is_left() -> None:
    assert goodput(3.0, Late.SERVE) < 0.1 * CAPACITY
