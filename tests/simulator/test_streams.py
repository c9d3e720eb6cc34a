"""Requests wait while one more stream would make those of every decode engine miss their objective."""

from __future__ import annotations

import random
from dataclasses import replace

from paceline.policy.routing.crowding import crowding
from paceline.simulator.policies.static import StaticPolicy
from paceline.simulator.report import attainment, policy_report
from paceline.simulator.simulation import Run, Simulation
from paceline.simulator.workload import Workload
from paceline.traces.record import TraceRequest
from tests.simulator.scenes import PROFILE, settings, trace_of

PROMPT_TOKENS, OUTPUT_TOKENS, SECONDS = 1000, 300, 200.0
ITL_SECONDS = 0.025


def run(*, rate: float, decode: int, hold: bool) -> Run:
    """Requests at ``rate`` a second on four prefill engines and some decode engines."""
    rng, at, requests = random.Random(7), 0.0, []
    while (at := at + rng.expovariate(rate)) < SECONDS:
        requests.append(TraceRequest(at, PROMPT_TOKENS, OUTPUT_TOKENS))
    base = settings()
    told = settings(router=replace(base.router, hold_for_itl=hold))
    return Simulation(Workload(trace_of(*requests)), StaticPolicy(4, decode), told).run()


def slow(one: Run) -> float:
    """Share of the requests that missed the ITL."""
    return 1 - float(attainment(one).itl.mean())


def good(one: Run) -> float:
    """Share of the requests that met both."""
    return float(attainment(one).both.mean())


def test_too_many_requests_for_one_decode_engine_fail_by_themselves_and_not_together() -> None:
    added, held = (run(rate=36.0, decode=1, hold=hold) for hold in (False, True))
    assert slow(added) > 0.9, "else there is nothing to show"
    assert slow(held) < 0.2
    assert good(held) > 5 * good(added)


def test_a_little_too_much_is_waited_for_in_time() -> None:
    added, held = (run(rate=30.0, decode=1, hold=hold) for hold in (False, True))
    assert slow(added) > 0.05, "else there is nothing to show"
    assert good(held) == 1.0


def test_nobody_is_held_where_there_are_places_enough() -> None:
    added, held = (policy_report(run(rate=20.0, decode=4, hold=hold)) for hold in (False, True))
    assert added == held


def test_all_requests_come_to_their_end_though_some_are_held() -> None:
    report = policy_report(run(rate=36.0, decode=1, hold=True))
    assert report.lost == 0
    assert report.completed + report.rejected == report.requests


def test_an_engine_without_streams_gets_a_request_that_is_too_much_by_itself() -> None:
    longest = 500_000
    assert PROFILE.kv_capacity_tokens > longest + OUTPUT_TOKENS
    assert not crowding(PROFILE, ITL_SECONDS).allows(1, longest), "else it is not too much"
    load = Workload(trace_of(TraceRequest(0.0, longest, OUTPUT_TOKENS)))
    assert policy_report(Simulation(load, StaticPolicy(1, 1), settings()).run()).completed == 1
