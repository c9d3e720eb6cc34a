"""What happens to real deployments, in virtual time, through the planner's own loop."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import msgspec

from paceline.api.conditions import Reason
from paceline.api.v1alpha1.status import ScalingLimit
from paceline.planner.limits import limited
from paceline.planner.recorder import Recorder, read_recording
from paceline.planner.replay import decide_again, trace_of
from paceline.simulator.cluster import Targets
from paceline.simulator.settings import PodHabits
from tests.planner.world import World, elastic, traffic

MINUTE = 60.0


def numbers(value: object) -> list[float]:
    """Every number in a document."""
    if isinstance(value, dict):
        return [one for item in value.values() for one in numbers(item)]
    if isinstance(value, list | tuple):
        return [one for item in value for one in numbers(item)]
    return [float(value)] if isinstance(value, int | float) else []


def test_scale_down_while_streams_run_cuts_none() -> None:
    load = traffic(20 * MINUTE, rate=lambda at: 5.0 if at < 5 * MINUTE else 0.7, answer=lambda _: 1500.0)
    world = World(elastic(), load, initial=Targets(2, 4))
    run = world.run()
    assert run.drains >= 2
    assert sum(world.at(20 * MINUTE)) < sum(world.at(5 * MINUTE))
    assert run.score.completed == len(load)


def test_traffic_that_falls_to_zero_leaves_numbers_and_the_minimum() -> None:
    load = traffic(40 * MINUTE, rate=lambda at: 6.0 if at < 5 * MINUTE else 6.0 if at > 39.9 * MINUTE else 0.0)
    world = World(elastic(), load, initial=Targets(3, 2))
    world.run()
    assert world.at(39 * MINUTE) == (1, 1)
    for step in world.steps:
        assert all(math.isfinite(one) for one in numbers(msgspec.to_builtins(step.decision)))


def test_a_deployment_that_may_sleep_does_and_the_request_that_wakes_it_is_served() -> None:
    load = traffic(40 * MINUTE, rate=lambda at: 3.0 if at < 5 * MINUTE or at > 30 * MINUTE else 0.0)
    md = elastic(scaleToZero={"policy": "WhenIdle", "idleSeconds": 300})
    world = World(md, load, initial=Targets(1, 1))
    run = world.run()
    assert world.at(20 * MINUTE) == (0, 0)
    assert sum(world.at(35 * MINUTE)) >= 2
    assert run.score.completed == len(load)


def test_an_engine_that_never_gets_ready_is_named_and_replaced_ever_more_rarely_while_the_others_go_on() -> None:
    load = traffic(
        40 * MINUTE,
        rate=lambda at: 1.0 if at < MINUTE else 2.0,
        prompt=lambda _: 12_000.0,
        answer=lambda _: 10.0,
        most=2.0,
    )
    pods = PodHabits(
        start_p50_seconds=60, start_p95_seconds=90, start_failure=0.999_999, start_deadline_seconds=1_000_000
    )
    world = World(elastic(most=3, intervalSeconds=30), load, initial=Targets(1, 1), pods=pods)
    run = world.run()
    named = [step for step in world.steps if step.decision.explanation.absent]
    assert named, "nobody said that it is late"
    assert any("Not ready by the start deadline" in sentence for sentence in named[0].words)
    assert all(step.blind is None for step in world.steps[4:])
    ordered = [step.decision.at for step in world.steps if step.decision.starts]
    assert len(ordered) < 10
    assert run.score.completed + run.score.rejected == len(load)
    assert world.at(40 * MINUTE) == (1, 1)


def test_a_rebalance_at_a_full_budget_never_exceeds_it() -> None:
    load = traffic(
        12 * MINUTE,
        rate=lambda at: 12.0 if at // 240 % 2 else 4.0,
        most=12.0,
        prompt=lambda at: 1000.0 if at // 240 % 2 else 8000.0,
        answer=lambda at: 900.0 if at // 240 % 2 else 50.0,
    )
    world = World(elastic(budget=6), load, initial=Targets(2, 1))
    run = world.run()
    assert run.flips >= 2
    assert run.max_gpus <= 6
    assert run.score.completed + run.score.rejected == len(load)


def test_a_load_that_doubles_in_ten_seconds_is_answered_with_starts_at_once() -> None:
    load = traffic(11 * MINUTE, rate=lambda at: 4.0 if at < 240 else 4.0 + 4.0 * min(1.0, (at - 240) / 10), most=8.0)
    world = World(elastic(), load, initial=Targets(2, 1))
    run = world.run()
    before, after = sum(world.at(240.0)), sum(world.at(420.0))
    assert after > before
    assert world.attained(run, 420.0, 660.0) > 0.95


def test_a_load_that_triples_in_ten_minutes_is_followed() -> None:
    load = traffic(18 * MINUTE, rate=lambda at: 3.0 + 6.0 * min(1.0, max(0.0, (at - 300) / 600)), most=9.0)
    world = World(elastic(), load, initial=Targets(2, 1))
    run = world.run()
    assert world.attained(run, 300.0, 900.0) > 0.9
    assert world.attained(run, 900.0, 1080.0) > 0.95


def test_a_mix_that_flips_from_long_prompts_to_long_answers_is_answered_by_role_changes_before_any_start() -> None:
    load = traffic(
        15 * MINUTE,
        rate=lambda at: 4.0 if at < 420 else 8.0,
        prompt=lambda at: 8000.0 if at < 420 else 8000.0 - 6500.0 * min(1.0, (at - 420) / 30),
        answer=lambda at: 40.0 if at < 420 else 40.0 + 1400.0 * min(1.0, (at - 420) / 30),
    )
    world = World(elastic(most=4, budget=10), load, initial=Targets(4, 1))
    run = world.run()
    assert world.at(420.0)[0] >= 3
    assert world.at(660.0)[1] >= 2
    first = next(step for step in world.steps if step.decision.at > 425 and step.decision.changes_something)
    assert first.decision.flips
    assert run.score.rejected == 0


def test_a_steady_load_whose_queue_is_short_changes_no_role() -> None:
    load = traffic(10 * MINUTE, rate=lambda _: 3.0, most=3.0, prompt=lambda _: 6000.0, answer=lambda _: 600.0)
    world = World(elastic(budget=8, scaleDownWindowSeconds=3600), load, initial=Targets(2, 2))
    run = world.run()
    assert run.flips == 0
    assert world.attained(run, MINUTE, 9 * MINUTE) > 0.98


def test_when_both_demands_rise_with_no_budget_left_the_decision_says_what_will_miss_and_by_how_much() -> None:
    load = traffic(
        10 * MINUTE, rate=lambda at: 2.0 if at < 120 else 8.0, prompt=lambda _: 6000.0, answer=lambda _: 1200.0
    )
    md = elastic(budget=6)
    world = World(md, load, initial=Targets(2, 1))
    world.run()
    short = [step for step in world.steps if step.decision.explanation.bound_by.value == "GpuBudget"]
    assert short
    step = short[-1]
    needed = {demand.role: demand.engines for demand in step.decision.explanation.demands}
    assert len(needed) == 2
    finding = limited(step.decision, world.planner.settings)
    assert finding is not None
    assert finding.reason is Reason.GPU_BUDGET_REACHED
    assert finding.message.startswith("The GPU budget is reached: ")
    assert "prefill engines are needed, " in finding.message
    assert "decode engines are needed, " in finding.message
    assert any("The GPU budget" in word or "the GPU budget" in word for word in step.words)
    assert step.decision.explanation.seen.attainment is not None


def test_ten_minutes_without_metrics_in_a_burst_change_nothing_and_then_it_goes_on_by_itself() -> None:
    reason = Reason.METRICS_UNREACHABLE
    load = traffic(22 * MINUTE, rate=lambda at: 2.0 if at < 300 else 7.0, most=8.0)
    world = World(elastic(), load, initial=Targets(2, 1), blind=lambda at: reason if 290 <= at < 890 else None)
    run = world.run()
    held = [step for step in world.steps if 290 <= step.decision.at < 890]
    assert all(step.blind is not None and step.blind.reason is reason for step in held)
    assert all(step.news is None for step in held)
    assert world.at(880.0) == world.at(290.0)
    assert sum(world.at(21 * MINUTE)) > sum(world.at(880.0))
    assert run.score.completed + run.score.rejected == len(load)


def test_what_was_recorded_is_decided_the_same_again_and_makes_a_trace(tmp_path: Path) -> None:
    load = traffic(5 * MINUTE, rate=lambda at: 2.0 if at < 120 else 9.0, prompt=lambda _: 6000.0, most=9.0)
    world = World(elastic(), load, initial=Targets(2, 1))
    world.run()
    recorder = Recorder(tmp_path)
    for step in world.steps:
        recorder.write(("default", "elastic"), world.planner, step)
    recorder.close()
    (file,) = tmp_path.iterdir()
    lines = read_recording(file)
    again = list(decide_again(lines))
    assert len(again) == len(world.steps)
    assert all(one.decided == one.recorded for one in again)
    assert any(one.decided.changes_something for one in again)
    trace = trace_of(lines, "recorded")
    seen = [one for one in load.arrivals if one <= world.steps[-1].observation.arrivals[-1].end]
    assert abs(len(trace.requests) - len(seen)) <= 0.02 * len(seen) + 20
    tokens = sum(request.input_tokens for request in trace.requests) / len(trace.requests)
    assert abs(tokens - 6000) < 400


def test_the_history_says_what_changed_and_why() -> None:
    load = traffic(5 * MINUTE, rate=lambda at: 3.0 if at < 120 else 9.0, prompt=lambda _: 6000.0, most=9.0)
    world = World(elastic(), load, initial=Targets(2, 1))
    world.run()
    newest = world.planner.history[0]
    assert len(world.planner.history) <= 10
    assert newest.limit in set(ScalingLimit)
    assert len(newest.reason) <= 1024
    assert "the aim is" in newest.reason


def test_recommend_says_what_it_would_do_once_and_does_nothing() -> None:
    load = traffic(5 * MINUTE, rate=lambda at: 3.0 if at < 120 else 9.0, prompt=lambda _: 6000.0, most=9.0)
    world = World(elastic(mode="Recommend"), load, initial=Targets(2, 1))

    orders = world.planner.orders
    world.run()
    assert world.planner.orders == orders
    recommended = [one.after for one in world.planner.history]
    assert recommended
    assert all(one.reason.startswith("Recommended, not done:") for one in world.planner.history)
    assert all(newer != older for newer, older in pairwise(recommended))
