"""From a manifest to a simulation: the fields that the operator reads mean the same here."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.api import labels
from paceline.api.v1alpha1 import load
from paceline.api.wire import Role
from paceline.errors import ConfigError
from paceline.planner.settings import scaling_settings
from paceline.simulator.scenario import GIB, settings_of

SAMPLES = Path(__file__).resolve().parents[2] / "manifests" / "samples"


def read(name: str, *, change: tuple[str, str] = ("", "")) -> str:
    return (SAMPLES / name).read_text().replace(*change)


def test_the_sample_for_h200_becomes_its_objective_bounds_and_tiers() -> None:
    settings = settings_of(load(read("disaggregated-h200.yaml"), "sample"), profile=None, seed=3)
    assert settings.profile.name == "qwen3-32b-h200-tp2"
    assert settings.gpus_per_engine == 2
    assert (settings.objective.ttft_seconds, settings.objective.itl_seconds, settings.objective.target) == (
        2.0,
        0.05,
        0.95,
    )
    assert settings.bounds == {Role.PREFILL: (2, 10), Role.DECODE: (2, 10)}
    assert settings.gpu_budget == 32
    assert settings.tiers.host_tokens == 256 * GIB // settings.profile.kv_bytes_per_token
    assert settings.router.max_queue_seconds == 30
    assert settings.router.max_queued_requests == 5000
    assert settings.pods.start_deadline_seconds == 1200
    assert settings.seed == 3
    assert settings.flexible


def test_the_planner_is_told_what_the_manifest_says() -> None:
    scaling = settings_of(load(read("disaggregated-h200.yaml"), "sample"), profile=None, seed=0).scaling
    assert scaling is not None
    assert scaling.down_window_seconds == 300
    assert scaling.gpu_budget == 32
    assert scaling.start_deadline_seconds == 1200
    assert scaling.prefill is not None
    assert (scaling.prefill.min_engines, scaling.prefill.max_engines) == (2, 10)


def test_without_a_budget_the_bounds_of_the_pools_are_the_budget() -> None:
    text = read("quickstart.yaml", change=("gpuBudget: 8", "mode: Auto"))
    assert settings_of(load(text, "sample"), profile=None, seed=0).gpu_budget == 2 * 6


def test_a_named_profile_stands_in_for_the_hardware() -> None:
    settings = settings_of(load(read("cpu.yaml"), "sample"), profile="tiny-cpu", seed=0)
    assert settings.profile.name == "tiny-cpu"
    assert settings.gpus_per_engine == 1


def test_different_hardware_for_the_roles_is_refused() -> None:
    with pytest.raises(ConfigError, match="one kind"):
        settings_of(load(read("heterogeneous.yaml"), "sample"), profile=None, seed=0)


@pytest.mark.parametrize("noted", ["warp", "speed ="])
def test_an_engine_profile_that_is_none_is_refused_and_not_passed_over(noted: str) -> None:
    md = load(read("disaggregated-h200.yaml"), "sample")
    metadata = md.metadata.model_copy(update={"annotations": {labels.ENGINE_PROFILE: noted}})
    with pytest.raises(ConfigError, match=r"metadata\.annotations\[paceline.dev/engine-profile\]: "):
        settings_of(md.model_copy(update={"metadata": metadata}), profile=None, seed=0)


@pytest.mark.parametrize(
    ("change", "held"),
    [
        (("", ""), True),
        (("maxQueueSeconds: 30", "maxQueueSeconds: 30\n      holdForItl: Disabled"), False),
        (("replicas: 3", "replicas: 3\n    queue: {order: Arrival}"), False),
    ],
    ids=["as it is", "off", "in order of arrival"],
)
def test_simulated_routers_and_planners_hold_requests_where_the_real_ones_do(
    change: tuple[str, str], held: bool
) -> None:
    md = load(read("disaggregated-h200.yaml", change=change), "sample")
    settings = settings_of(md, profile=None, seed=0)
    assert settings.router.hold_for_itl is held
    assert settings.scaling is not None
    assert settings.scaling.hold_for_itl is held
    assert scaling_settings(md).hold_for_itl is held
