"""The policies: each does what its name says, none breaks a bound, and the search finds the smallest fleet."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from paceline.api.wire import Role
from paceline.errors import ConfigError
from paceline.policy.scaling.observation import Observation, read, write
from paceline.policy.scaling.planner import plan
from paceline.simulator import oracle_search
from paceline.simulator.cluster import Cluster, Targets
from paceline.simulator.compare import policy_names
from paceline.simulator.oracle_search import busiest_part
from paceline.simulator.policies.base import Context, DownWindow, settled_counts
from paceline.simulator.policies.planner import PlannerPolicy
from paceline.simulator.policies.static import StaticPolicy
from paceline.simulator.report import policy_report
from paceline.simulator.settings import PodHabits
from paceline.simulator.simulation import Simulation
from paceline.simulator.static_search import StaticSearch
from paceline.simulator.tuning import POLICIES, TUNED, best_run
from paceline.simulator.workload import Workload
from paceline.traces.record import TraceRequest
from tests.simulator.scenes import AGGREGATED, conversation, settings, trace_of

BOUNDS = {Role.PREFILL: (1, 6), Role.DECODE: (1, 6)}
QUICK = PodHabits(start_p50_seconds=5, start_p95_seconds=12)


@pytest.mark.parametrize("name", [*TUNED])
def test_every_policy_keeps_to_the_budget_and_loses_nothing(name: str) -> None:
    chosen = settings(bounds=BOUNDS, gpu_budget=12, pods=QUICK)
    load = conversation(seconds=90, rate=4)
    context = Context(load, chosen, settled_counts(load, chosen))
    for policy in list(TUNED[name](context))[:3]:
        run = Simulation(load, policy, chosen).run()
        report = policy_report(run)
        assert report.policy == name
        assert report.lost == 0
        assert run.max_gpus <= 12
        for sample in run.samples:
            assert sample.prefill.ready <= 6
            assert sample.decode.ready <= 6


@pytest.mark.parametrize("name", [name for name in TUNED if name != "oracle"])
def test_policies_scale_engines_that_serve_both_roles(name: str) -> None:
    chosen = settings(bounds=AGGREGATED, pods=QUICK)
    load = conversation(seconds=60, rate=3)
    policy = next(iter(TUNED[name](Context(load, chosen, settled_counts(load, chosen)))))
    report = policy_report(Simulation(load, policy, chosen).run())
    assert report.completed == report.requests


def test_static_best_is_the_smallest_fleet_that_passes() -> None:
    chosen = settings(bounds=BOUNDS)
    load = conversation(seconds=120, rate=4)
    best = best_run("static-best", load, chosen)
    initial = best.samples[0]
    prefill, decode = initial.prefill.ready, initial.decode.ready
    assert policy_report(best).meets_gate
    if prefill > 1:
        fewer = Simulation(load, StaticPolicy(prefill - 1, decode), chosen).run()
        assert not policy_report(fewer).meets_gate


def test_the_oracle_is_never_dearer_than_the_best_static_fleet() -> None:
    chosen = settings(bounds=BOUNDS, pods=QUICK)
    load = conversation(seconds=120, rate=4)
    static, oracle = (best_run(name, load, chosen) for name in ("static-best", "oracle"))
    assert policy_report(oracle).meets_gate
    assert oracle.gpu_seconds <= static.gpu_seconds


def test_of_a_long_workload_the_oracle_is_the_schedule_that_does_best_in_its_busiest_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(oracle_search, "LONG_SECONDS", 100.0)
    monkeypatch.setattr(oracle_search, "PART_SECONDS", 40.0)
    chosen = settings(bounds=BOUNDS, pods=QUICK)
    load = conversation(seconds=120, rate=4)
    heard: list[str] = []
    oracle = best_run("oracle", load, chosen, progress=lambda what, _: heard.append(what))
    assert policy_report(oracle).meets_gate
    assert len(oracle.workload) == len(load)
    simulated = list(dict.fromkeys(heard))
    assert sum("a part" in what for what in simulated) == 12
    whole = [what for what in simulated if "a part" not in what]
    assert len(whole) == oracle_search.STEPS
    assert len({what.partition(" times ")[0] for what in whole}) == 1, "one schedule, in several sizes"


def test_the_busiest_part_is_where_most_prompt_tokens_come() -> None:
    many_short = [TraceRequest(50.0 + number, 100, 10) for number in range(10)]
    few_long = [TraceRequest(205.0, 4000, 10), TraceRequest(221.0, 4000, 20)]
    part = busiest_part(Workload(trace_of(TraceRequest(0.0, 1, 1), *many_short, *few_long)), 30)
    assert [(one.arrived, one.prompt, one.output) for one in part] == [(5.0, 4000, 10), (21.0, 4000, 20)]


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 25))
@hypothesis_settings(deadline=None)
def test_the_search_over_counts_finds_the_smallest_that_is_enough(guess: int, most: int, needed: int) -> None:
    found = StaticSearch._smallest(lambda count: count >= needed, guess, 1, most)
    assert found == max(1, min(needed, most))


@given(st.integers(1, 4), st.integers(1, 20), st.integers(0, 12), st.tuples(st.integers(1, 6), st.integers(1, 6)))
@hypothesis_settings(deadline=None)
def test_the_search_finds_the_smallest_fleet_where_more_decode_engines_save_ever_fewer_for_prefill(
    least_decode: int, least_prefill: int, more: int, guess: tuple[int, int]
) -> None:
    def enough(prefill: int, decode: int) -> bool:
        """With few decode engines prompts wait for seats as well, and more prefill engines are no help beyond some."""
        return decode >= least_decode and prefill >= least_prefill + more // (1 + decode - least_decode)

    class Judged(StaticSearch):
        """No simulation: fleets are what stands for their runs."""

        def __init__(self) -> None:
            load = conversation(seconds=10)
            bounds = {Role.PREFILL: (1, 64), Role.DECODE: (1, 64)}
            super().__init__(Context(load, settings(bounds=bounds), Targets(*guess)), lambda what, share: None)

        def _at(self, prefill: int, decode: int) -> Any:
            return prefill, decode

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("paceline.simulator.static_search.passes", lambda fleet: enough(*fleet))
        found = cast("tuple[int, int]", Judged().run())
    assert enough(*found)
    best = min(p + d for p in range(1, 65) for d in range(1, 30) if enough(p, d))
    assert sum(found) == best


def test_a_scale_down_window_remembers_the_largest_want() -> None:
    window = DownWindow(100)
    assert [window.settle(at, wanted) for at, wanted in ((0, 5), (50, 3), (99, 2), (101, 2), (151, 1))] == [
        5,
        5,
        5,
        3,
        2,
    ]


def test_an_unknown_policy_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="static-best, hpa"):
        best_run("magic", conversation(), settings())
    with pytest.raises(ConfigError, match="static-best, hpa"):
        policy_names("static-best,magic")


def test_all_stands_for_every_policy() -> None:
    assert policy_names("all") == POLICIES
    assert policy_names(" hpa , oracle ") == ("hpa", "oracle")


class Recorder(PlannerPolicy):
    """Keeps what the planner was shown, as the planner's loop records it."""

    def observe(self, cluster: Cluster) -> Observation:
        observation = super().observe(cluster)
        self.recorded.append((write(observation), self._state))
        return observation

    recorded: list[tuple[bytes, object]]


def test_what_the_planner_was_shown_replays_to_the_same_decisions() -> None:
    chosen = settings(bounds=BOUNDS, pods=QUICK)
    policy = Recorder(Targets(2, 1), chosen)
    policy.recorded = []
    load = conversation(seconds=120, rate=4)
    Simulation(load, policy, chosen).run()
    last = policy.decision
    line, state = policy.recorded[-1]
    assert len(policy.recorded) > 5
    observation = read(Observation, line, source="recording")
    assert observation.arrivals
    assert observation.attainment is not None
    assert observation.attainment.requests > 0
    replayed, _ = plan(observation, state, policy._settings, policy._models)  # type: ignore[arg-type]
    assert replayed == last
