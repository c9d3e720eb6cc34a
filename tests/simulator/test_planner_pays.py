"""A gate in little: where the mix inverts, the planner beats the best static fleet. The real ones: tests/bench."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from paceline.api.wire import Late, Role
from paceline.simulator.cluster import Targets
from paceline.simulator.policies.planner import PlannerPolicy
from paceline.simulator.report import PolicyReport, attainment, policy_report
from paceline.simulator.router import RouterSettings
from paceline.simulator.settings import SimSettings
from paceline.simulator.simulation import Simulation
from paceline.simulator.tuning import best_run
from paceline.simulator.workload import Workload
from paceline.traces.record import Trace, TraceRequest
from tests.simulator.scenes import settings

PERIOD = 300.0
SECONDS = 1200.0


def inverting_load() -> Workload:
    """Long prompts with short answers, and the reverse, by turns of five minutes."""
    rng = random.Random(3)
    requests = []
    at = 0.0
    while (at := at + rng.expovariate(4.0)) < SECONDS:
        prompt, output = (600, 1500) if int(at // PERIOD) % 2 else (6000, 150)
        size = rng.lognormvariate(0, 0.5)
        requests.append(TraceRequest(at, max(1, round(prompt * size)), max(1, round(output * size))))
    return Workload(Trace("inverting", tuple(requests)))


def chosen(late: Late) -> SimSettings:
    bounds = {Role.PREFILL: (1, 12), Role.DECODE: (1, 12)}
    return replace(settings(), bounds=bounds, gpu_budget=48, router=RouterSettings(ttft_seconds=2.0, late=late))


@pytest.fixture(scope="module")
def reports() -> dict[str, PolicyReport]:
    load, serve = inverting_load(), chosen(Late.SERVE)
    return {name: policy_report(best_run(name, load, serve)) for name in ("planner", "static-best")}


def test_where_the_mix_inverts_the_planner_makes_more_of_each_gpu_hour(reports: dict[str, PolicyReport]) -> None:
    planner, static = reports["planner"], reports["static-best"]
    assert planner.meets_gate
    assert static.meets_gate
    assert planner.goodput_per_gpu_hour >= 1.1 * static.goodput_per_gpu_hour


def test_every_request_is_completed_on_the_way(reports: dict[str, PolicyReport]) -> None:
    planner = reports["planner"]
    assert planner.lost == 0
    assert planner.completed == planner.requests


def test_a_limit_on_late_requests_refuses_nobody_for_the_time_that_engines_take_to_follow(
    reports: dict[str, PolicyReport],
) -> None:
    limited = policy_report(best_run("planner", inverting_load(), chosen(Late.LIMIT)))
    assert limited.lost == 0
    assert limited.rejected == 0
    assert limited.attainment >= reports["planner"].attainment
    assert limited.meets_gate


def test_requests_that_a_jump_of_the_load_made_routers_refuse_take_no_engines_from_the_others() -> None:
    rng, at, requests = random.Random(0), 0.0, []
    while (at := at + rng.expovariate(5.0 if at < 300 else 60.0)) < 900:
        requests.append(TraceRequest(at, 4000, rng.randint(20, 100)))
    load, scene = Workload(Trace("jump", tuple(requests))), chosen(Late.LIMIT)
    scene = replace(scene, bounds={Role.PREFILL: (1, 24), Role.DECODE: (1, 24)}, gpu_budget=96)
    run = Simulation(load, PlannerPolicy(Targets(2, 1), scene), scene).run()
    assert run.score.rejected > 1000, "else the test shows nothing"
    five_minutes_later = load.arrivals >= 600
    assert attainment(run).both[five_minutes_later].mean() > 0.95
    assert run.samples[-1].decode.ready < 5, "answers are short: two engines are enough for them"
