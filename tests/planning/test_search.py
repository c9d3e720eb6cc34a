"""Planning end to end on small loads: the cheapest wins, and the sentences say why and how sure that is."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from paceline.api.v1alpha1 import ModelDeployment, PoolMode, load
from paceline.errors import ConfigError
from paceline.planning import words
from paceline.planning.coarse import guess
from paceline.planning.confidence import confidence
from paceline.planning.fleets import Ground
from paceline.planning.layouts import Basis, EngineOption, engine_options
from paceline.planning.plot import draw
from paceline.planning.search import Plan, recommended, search
from paceline.planning.variants import Bounds, Tweaks, parsed, variant
from paceline.policy.resources import hardware_pools
from paceline.policy.scaling.assumed import precision_of
from paceline.policy.scaling.physics import Precision
from paceline.policy.scaling.profiles import get_profile
from paceline.simulator.settings import Objective
from paceline.simulator.workload import Workload
from paceline.traces.generate import ConversationShape, generate_conversations

MANIFEST = """
apiVersion: paceline.dev/v1alpha1
kind: ModelDeployment
metadata: {name: plan, labels: {team: search}}
spec:
  model: {name: Qwen/Qwen3-32B, servedName: qwen3-32b}
  engine: {parallelism: {tensor: 2}}
  slo: {ttftMilliseconds: 2000, itlMilliseconds: 25}
  pools:
    prefill: {maxReplicas: 8, accelerator: {product: NVIDIA-H200, count: 2}}
    decode: {maxReplicas: 8, accelerator: {product: NVIDIA-H200, count: 2}}
"""


def manifest(**changes: str) -> ModelDeployment:
    text = MANIFEST
    for before, after in changes.items():
        text = text.replace(before, after)
    return load(text, "plan.yaml")


def silent(what: str, share: float) -> None:
    assert what
    assert 0 <= share <= 1


def load_of(rate: float, seconds: float) -> Workload:
    shape = ConversationShape(requests_per_second=rate)
    return Workload(generate_conversations(shape, seconds=seconds, rng=random.Random(1)))


def planned(md: ModelDeployment, workload: Workload, options: list[EngineOption], max_gpus: int = 32) -> Plan:
    return search(md, options, workload, max_gpus=max_gpus, seed=0, progress=silent)


@pytest.fixture(scope="module")
def busy() -> tuple[ModelDeployment, Workload, Plan]:
    md = manifest()
    workload = load_of(4, 120)
    return md, workload, planned(md, workload, engine_options(md, profile=None))


def test_the_cheapest_fleet_that_meets_the_objective_wins(busy: tuple[ModelDeployment, Workload, Plan]) -> None:
    _, _, plan = busy
    best = plan.best
    assert best is not None
    assert best.good
    assert best.attained >= plan.objective.target
    assert best.lost == 0
    assert all(best.gpu_hours <= fleet.gpu_hours + 1e-9 for fleet in plan.fleets if fleet.good)
    assert "Cheapest that meets the objective" in words.verdict(plan)


def test_no_fleet_of_the_front_is_worse_than_another_in_everything(
    busy: tuple[ModelDeployment, Workload, Plan],
) -> None:
    _, _, plan = busy
    costs = [fleet.gpu_hours for fleet in plan.front]
    assert costs == sorted(costs)
    for one in plan.front:
        for other in plan.fleets:
            better = other.gpu_hours < one.gpu_hours and other.ttft_ms < one.ttft_ms and other.itl_ms < one.itl_ms
            assert not better


def test_both_modes_are_tried_and_the_words_compare_them(busy: tuple[ModelDeployment, Workload, Plan]) -> None:
    _, _, plan = busy
    assert {fleet.mode for fleet in plan.fleets} == {PoolMode.AGGREGATED, PoolMode.DISAGGREGATED}
    said = words.disaggregation(plan)
    apart, both = plan.by_mode[PoolMode.DISAGGREGATED], plan.by_mode[PoolMode.AGGREGATED]
    if apart.gpu_hours < 0.95 * both.gpu_hours:
        assert said.startswith("Disaggregation pays here")
    else:
        assert "makes no difference" in said or "does not pay" in said


def test_the_recommended_manifest_is_valid_and_keeps_what_the_search_is_not_about(
    busy: tuple[ModelDeployment, Workload, Plan],
) -> None:
    md, _, plan = busy
    assert plan.best is not None
    made = parsed(recommended(md, plan.best))
    assert made.spec.model == md.spec.model
    assert made.spec.slo == md.spec.slo
    assert made.metadata.labels == {"team": "search"}
    assert made.spec.pools.mode is plan.best.mode
    assert made.spec.engine.parallelism.tensor == plan.best.option.tensor


def test_the_words_say_how_sure_the_recommendation_is(busy: tuple[ModelDeployment, Workload, Plan]) -> None:
    _, workload, plan = busy
    best = plan.best
    assert best is not None
    settings = plan.settings[best.option.tensor, best.mode]
    sure = confidence(Ground(workload, plan.objective, silent), best, settings, seed=0)
    assert sure.low <= best.attained <= sure.high
    assert 0 <= sure.holds <= 1
    assert sure.slower is None or sure.slower.gpu_hours >= best.gpu_hours - 1e-9
    said = " ".join(words.sureness(plan, best, sure))
    assert "in 90% of the draws" in said
    assert best.option.profile.provenance in said
    assert f"{100 * sure.error:.0f}% slower" in said


def test_the_front_is_drawn(busy: tuple[ModelDeployment, Workload, Plan], tmp_path: Path) -> None:
    path = tmp_path / "front.png"
    draw(path, busy[2], title="a load")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="--plot: can't write"):
        draw(tmp_path / "no" / "front.png", busy[2], title="a load")


def test_on_a_tiny_load_disaggregation_does_not_pay() -> None:
    md = manifest()
    tiny = load_of(0.2, 240)
    only = [option for option in engine_options(md, profile=None) if option.tensor == 2]
    plan = planned(md, tiny, only)
    assert plan.best is not None
    assert plan.best.mode is PoolMode.AGGREGATED
    assert plan.best.prefill == 1
    assert words.disaggregation(plan).startswith("Disaggregation does not pay here")
    note = words.change_of_mode(md, plan.best)
    assert note is not None
    assert "can't be changed (Disaggregated to Aggregated)" in note


def test_a_budget_that_is_too_small_is_said_with_the_closest_fleet() -> None:
    md = manifest()
    only = [option for option in engine_options(md, profile=None) if option.tensor == 2]
    plan = planned(md, load_of(4, 60), only, max_gpus=4)
    assert plan.best is None
    assert "Nothing within the GPU budget" in words.verdict(plan)
    assert "The closest was" in words.verdict(plan)
    assert max(fleet.run.max_gpus for fleet in plan.fleets) <= 4


def test_an_objective_that_no_engine_can_meet_names_the_reason_for_each_layout() -> None:
    md = manifest(**{"itlMilliseconds: 25": "itlMilliseconds: 1"})
    with pytest.raises(ConfigError, match=r"no layout .* TP1: one decode step takes .* ms by itself; TP2"):
        planned(md, load_of(1, 60), engine_options(md, profile=None))


def test_a_trace_that_is_too_long_is_refused_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paceline.planning.search.MAX_REQUESTS", 10)
    md = manifest()
    with pytest.raises(ConfigError, match=r"at most 10\. Choose a window with --start-minute and --minutes"):
        planned(md, load_of(1, 60), engine_options(md, profile=None))


def test_layouts_without_a_profile_are_carried_over_from_the_one_that_has() -> None:
    options = engine_options(manifest(), profile=None)
    assert [(option.tensor, option.basis) for option in options] == [
        (1, Basis.CARRIED),
        (2, Basis.FITTED),
        (4, Basis.CARRIED),
        (8, Basis.CARRIED),
    ]
    assert options[0].error > options[1].error


def test_a_model_that_nobody_measured_on_this_hardware_is_estimated() -> None:
    options = engine_options(manifest(**{"NVIDIA-H200": "NVIDIA-L40S"}), profile=None)
    assert {option.basis for option in options} == {Basis.ESTIMATED}
    assert options[0].tensor > 1, "65 GB of weights don't fit on one L40S"


def test_of_an_unknown_model_only_a_named_profile_helps() -> None:
    md = manifest(**{"Qwen/Qwen3-32B": "acme/secret-7b"})
    with pytest.raises(ConfigError, match=r"nothing is known of acme/secret-7b .*--engine-profile.*paceline calibrate"):
        engine_options(md, profile=None)
    (only,) = engine_options(md, profile=get_profile("llama-3.1-8b-h200-tp1"))
    assert only.profile == get_profile("llama-3.1-8b-h200-tp1")


def test_the_precision_is_read_off_the_name() -> None:
    assert precision_of("Qwen/Qwen3-32B") is Precision.BF16
    assert precision_of("Qwen/Qwen3-32B-FP8") is Precision.FP8
    assert precision_of("nvidia/Qwen3-32B-NVFP4") is Precision.FP4
    assert precision_of("deepseek-ai/DeepSeek-V3") is Precision.FP8


def test_the_guess_grows_with_the_load() -> None:
    (option,) = engine_options(manifest(), profile=get_profile("qwen3-32b-h200-tp2"))
    small, large = (guess(option, load_of(rate, 120), Objective()) for rate in (1, 8))
    assert not small.problem
    assert large.prefill > small.prefill
    assert large.gpus > small.gpus
    assert 0.9 < small.ceiling <= 1


def test_a_request_that_no_cache_holds_rules_a_layout_out() -> None:
    (option,) = engine_options(manifest(), profile=get_profile("qwen3-32b-h200-tp2"))
    cramped = replace(option, profile=replace(option.profile, kv_capacity_tokens=2000))
    assert "its KV cache holds 2,000 tokens" in guess(cramped, load_of(1, 60), Objective()).problem


@pytest.mark.parametrize("mode", list(PoolMode))
def test_a_variant_changes_pools_parallelism_and_budget_only(mode: PoolMode) -> None:
    md = manifest(**{"  slo:": "  scaling: {intervalSeconds: 20, gpuBudget: 8}\n  slo:"})
    option = engine_options(md, profile=None)[2]
    bounds = Bounds(prefill=(2, 5), decode=(1, 3))
    made = parsed(variant(md, option, mode, bounds, gpu_budget=24, tweaks=Tweaks(scale_down_window_seconds=600)))
    assert made.spec.scaling.interval_seconds == 20
    assert made.spec.scaling.gpu_budget == 24
    assert made.spec.scaling.scale_down_window_seconds == 600
    assert made.spec.engine.parallelism.tensor == 4
    first = made.spec.pools.prefill or made.spec.pools.aggregated
    assert first is not None
    assert (first.min_replicas, first.max_replicas) == (2, 5)
    assert first.accelerator.count == 4
    assert (made.spec.pools.decode is None) == (mode is PoolMode.AGGREGATED)


@pytest.mark.parametrize("sample", ["disaggregated-h200", "multi-node", "quickstart"])
@pytest.mark.parametrize("mode", list(PoolMode))
def test_every_sample_can_be_planned_in_either_mode(sample: str, mode: PoolMode) -> None:
    path = Path(__file__).resolve().parents[2] / "manifests" / "samples" / f"{sample}.yaml"
    md = load(path.read_text(), path.name)
    for option in engine_options(md, profile=None):
        bounds = Bounds(prefill=(1, 3), decode=(1, 3))
        made = parsed(variant(md, option, mode, bounds, gpu_budget=6 * option.gpus))
        (pool,) = hardware_pools(made.spec)
        assert pool.accelerators == option.gpus


def test_an_engine_over_several_nodes_keeps_its_layout() -> None:
    path = Path(__file__).resolve().parents[2] / "manifests" / "samples" / "multi-node.yaml"
    md = load(path.read_text(), path.name)
    (option,) = engine_options(md, profile=None)
    assert (option.tensor, option.gpus, option.basis) == (8, 16, Basis.CARRIED)
    one_node = get_profile("deepseek-v3-h200-tp8")
    assert option.profile.kv_capacity_tokens > 2 * one_node.kv_capacity_tokens
    assert option.profile.step_seconds(64, 128_000) < one_node.step_seconds(64, 128_000)
