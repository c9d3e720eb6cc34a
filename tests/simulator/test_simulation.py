"""Whole runs: nothing is lost, everything can be repeated, a lone request takes what the formulas say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from paceline.api.wire import Role
from paceline.simulator.cluster import Change, Cluster, Targets
from paceline.simulator.policies.static import StaticPolicy
from paceline.simulator.report import policy_report
from paceline.simulator.request import Outcome
from paceline.simulator.settings import PodHabits, ScrapeHabits, Tiers
from paceline.simulator.simulation import Run, Simulation
from paceline.simulator.telemetry import Sample
from paceline.simulator.workload import Workload
from paceline.traces.record import TraceRequest
from tests.simulator.scenes import AGGREGATED, PROFILE, RestlessPolicy, conversation, settings, trace_of

QUICK_PODS = PodHabits(start_p50_seconds=5, start_p95_seconds=12, start_failure=0.2)


def test_a_request_alone_takes_prefill_transfer_and_its_decode_steps() -> None:
    run = Simulation(Workload(trace_of(TraceRequest(0.0, 3000, 20))), StaticPolicy(1, 1), settings()).run()
    steps = [PROFILE.step_seconds(1, 3000 + done) for done in range(20)]
    first = PROFILE.prefill_seconds(3000) + PROFILE.transfer_seconds(3000) + steps[0]
    assert run.score.ttft[0] == pytest.approx(first)
    assert run.score.itl[0] == pytest.approx(sum(steps[1:]) / 19)


def test_a_prompt_that_was_seen_before_is_computed_only_where_it_is_new() -> None:
    blocks = tuple(range(10))
    trace = trace_of(
        TraceRequest(0.0, 10 * 512, 1, blocks, 512), TraceRequest(10.0, 10 * 512 + 100, 1, (*blocks, 77), 512)
    )
    run = Simulation(Workload(trace), StaticPolicy(1, 1), settings()).run()
    prompt = 10 * 512 + 100
    after = PROFILE.transfer_seconds(prompt) + PROFILE.step_seconds(1, prompt)
    assert run.score.ttft[1] == pytest.approx(PROFILE.prefill_seconds(100, 10 * 512) + after)


@pytest.mark.parametrize(
    ("tiers", "bandwidth"),
    [
        (Tiers(host_tokens=100_000), PROFILE.host_bandwidth),
        (Tiers(disk_tokens=100_000), Tiers().disk_bandwidth),
        (Tiers(shared_tokens=100_000), Tiers().shared_bandwidth),
    ],
    ids=["host", "disk", "shared"],
)
def test_blocks_in_a_slower_tier_cost_the_time_to_load_them_from_there(tiers: Tiers, bandwidth: float) -> None:
    first, second = tuple(range(10)), tuple(range(100, 110))
    trace = trace_of(
        TraceRequest(0.0, 5120, 1, first, 512),
        TraceRequest(10.0, 5120, 1, second, 512),
        TraceRequest(20.0, 5121, 1, (*first, 99), 512),
    )
    small = replace(PROFILE, kv_capacity_tokens=6000)
    run = Simulation(Workload(trace), StaticPolicy(1, 1), settings(profile=small, tiers=tiers)).run()
    # Of the first prompt the accelerator still holds what fits beside the second.
    loaded = 5120 - (6000 // 512 - 10) * 512
    after = PROFILE.transfer_seconds(5121) + PROFILE.step_seconds(1, 5121)
    expected = loaded * PROFILE.kv_bytes_per_token / bandwidth + PROFILE.prefill_seconds(1, 5120) + after
    assert run.score.ttft[2] == pytest.approx(expected)


def test_engines_that_serve_both_roles_need_no_transfer() -> None:
    run = Simulation(
        Workload(trace_of(TraceRequest(0.0, 3000, 5))), StaticPolicy(1, 0), settings(bounds=AGGREGATED)
    ).run()
    steps = [PROFILE.step_seconds(1, 3001 + done) for done in range(4)]
    assert run.score.ttft[0] == pytest.approx(PROFILE.prefill_seconds(3000))
    assert run.score.itl[0] == pytest.approx(sum(steps) / 4)


def test_a_short_prompt_is_computed_by_its_decode_engine() -> None:
    router = replace(settings().router, local_prefill_tokens=200)
    run = Simulation(Workload(trace_of(TraceRequest(0.0, 150, 5))), StaticPolicy(1, 1), settings(router=router)).run()
    assert run.score.ttft[0] == pytest.approx(PROFILE.prefill_seconds(150))


def test_many_short_prompts_do_not_make_streams_miss_their_objective() -> None:
    # Each is done sooner by its decode engine than its blocks could be fetched; 250 a second are half of its time.
    load = Workload(trace_of(*(TraceRequest(number / 250, 60, 30) for number in range(15_000))))
    router = replace(settings().router, local_prefill_tokens=100, itl_seconds=0.025)
    run = Simulation(load, StaticPolicy(3, 1), settings(router=router)).run()
    assert np.mean(np.asarray(run.score.itl) <= 0.025) > 0.98
    none = replace(router, itl_seconds=1000.0, hold_for_itl=False)
    unpaced = Simulation(load, StaticPolicy(3, 1), settings(router=none)).run()
    assert np.mean(np.asarray(unpaced.score.itl) <= 0.025) < 0.5, "else the test shows nothing"


def test_a_prompt_that_no_engine_can_hold_is_refused() -> None:
    run = Simulation(
        Workload(trace_of(TraceRequest(0.0, PROFILE.kv_capacity_tokens, 1), TraceRequest(1.0, 10, 1))),
        StaticPolicy(1, 1),
        settings(),
    ).run()
    assert run.score.outcome.tolist() == [Outcome.REJECTED, Outcome.COMPLETED]


def test_whoever_waits_longer_than_allowed_is_refused_and_counts_as_a_miss() -> None:
    router = replace(settings().router, max_queue_seconds=1.0)
    load = conversation(seconds=60, rate=12)
    report = policy_report(Simulation(load, StaticPolicy(1, 1), settings(router=router)).run())
    assert report.rejected > 0
    assert report.completed + report.rejected == report.requests
    assert report.attainment <= report.completed / report.requests


@pytest.mark.parametrize("flexible", [False, True])
@pytest.mark.parametrize("aggregated", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_no_change_of_engines_ever_loses_a_request(seed: int, *, flexible: bool, aggregated: bool) -> None:
    run = Simulation(
        conversation(seed=seed, rate=6),
        RestlessPolicy(seed, flexible=flexible),
        settings(pods=QUICK_PODS, seed=seed, **({"bounds": AGGREGATED} if aggregated else {})),
    ).run()
    report = policy_report(run)
    assert report.lost == 0
    assert report.completed == report.requests
    assert run.starts > 5
    assert run.drains > 5
    assert aggregated or bool(run.flips) is flexible


@pytest.mark.parametrize("flexible", [False, True])
def test_the_budget_holds_in_the_middle_of_every_change(*, flexible: bool) -> None:
    run = Simulation(
        conversation(rate=6), RestlessPolicy(5, flexible=flexible), settings(pods=QUICK_PODS, gpu_budget=14)
    ).run()
    assert run.max_gpus == 14


class FlipsTheLastPrefillEngine(RestlessPolicy):
    """Turns prefill engines into decode engines when prompts are computed and nobody decodes."""

    initial = Targets(3, 0)

    def decide(self, seen: Sequence[Sample], cluster: Cluster) -> None:
        cluster.apply(Targets(1, 2, flexible=True))


def test_an_engine_that_others_wait_for_can_change_its_role_to_serve_them() -> None:
    run = Simulation(conversation(rate=1), FlipsTheLastPrefillEngine(0, flexible=True), settings()).run()
    assert run.flips == 2
    assert run.score.completed == len(run.workload)


def test_a_failed_start_is_tried_again() -> None:
    run = Simulation(conversation(), RestlessPolicy(1, flexible=False), settings(pods=QUICK_PODS)).run()
    assert run.start_failures > 0
    assert run.score.completed == len(run.workload)


class Grows(RestlessPolicy):
    """Asks for very many engines at once, and notes what it is shown."""

    initial = Targets(1, 1)
    interval_seconds = 3.0

    def __init__(self) -> None:
        super().__init__(0, flexible=False)
        self.seen: list[tuple[float, Sample]] = []

    def decide(self, seen: Sequence[Sample], cluster: Cluster) -> None:
        self.seen += [(cluster.now, sample) for sample in seen]
        cluster.apply(Targets(401, 1))


MANY = {Role.PREFILL: (0, 500), Role.DECODE: (0, 500)}


def test_pods_take_as_long_to_start_as_the_distribution_says() -> None:
    chosen = settings(bounds=MANY, gpu_budget=2000)
    run = Simulation(conversation(seconds=600, rate=0.5), Grows(), chosen).run()
    began = min(mark.at for mark in run.marks if mark.change is Change.START)
    times = sorted(mark.at - began for mark in run.marks if mark.change is Change.READY and mark.at > 0)
    assert len(times) == 400
    assert times[200] == pytest.approx(90, rel=0.1)
    assert times[380] == pytest.approx(180, rel=0.15)


def test_a_policy_sees_scrapes_only_when_their_delay_is_over() -> None:
    policy = Grows()
    Simulation(
        conversation(seconds=120), policy, settings(scrape=ScrapeHabits(interval_seconds=5, delay_seconds=4))
    ).run()
    ages = [now - sample.at for now, sample in policy.seen]
    assert len(ages) > 20
    assert min(ages) >= 4
    assert max(ages) <= 4 + 3


def test_noise_blurs_gauges_and_leaves_counters_exact() -> None:
    runs = [
        Simulation(conversation(), StaticPolicy(2, 2), settings(scrape=ScrapeHabits(noise=noise))).run()
        for noise in (0.0, 0.3)
    ]
    exact, noisy = (run.samples for run in runs)
    assert [sample.arrivals for sample in exact] == [sample.arrivals for sample in noisy]
    assert [sample.decode.kv_usage for sample in exact] != [sample.decode.kv_usage for sample in noisy]


def test_memory_that_is_short_delays_requests_and_loses_none() -> None:
    cramped = replace(PROFILE, kv_capacity_tokens=40_000)
    patient = replace(settings().router, max_queue_seconds=3600.0)
    run = Simulation(conversation(rate=3), StaticPolicy(3, 3), settings(profile=cramped, router=patient)).run()
    assert run.score.completed == len(run.workload)


def everything(run: Run) -> bytes:
    report = msgspec.structs.asdict(policy_report(run))
    return msgspec.json.encode(report) + run.score.ttft.tobytes() + run.score.itl.tobytes()


@given(seed=st.integers(0, 1000))
@hypothesis_settings(max_examples=5, deadline=None)
def test_the_same_seed_gives_the_same_bytes(seed: int) -> None:
    def simulate() -> bytes:
        chosen = settings(pods=QUICK_PODS, scrape=ScrapeHabits(noise=0.1), seed=seed)
        return everything(
            Simulation(conversation(seconds=60, seed=seed), RestlessPolicy(seed, flexible=True), chosen).run()
        )

    assert simulate() == simulate()


def test_another_seed_gives_other_pods() -> None:
    runs = [
        Simulation(conversation(), RestlessPolicy(1, flexible=True), settings(pods=QUICK_PODS, seed=seed)).run()
        for seed in (1, 2)
    ]
    assert everything(runs[0]) != everything(runs[1])


def test_more_engines_serve_no_worse() -> None:
    load = conversation(rate=8)
    few, many = (Simulation(load, StaticPolicy(n, n), settings()).run() for n in (2, 6))
    assert np.nanmedian(many.score.ttft) < np.nanmedian(few.score.ttft)
    assert policy_report(many).attainment > policy_report(few).attainment
