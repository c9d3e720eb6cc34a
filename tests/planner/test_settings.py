"""What a ModelDeployment tells the policy of its engines: a profile, a guess, or that nobody knows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from paceline.api import labels
from paceline.api.v1alpha1 import ModelDeployment
from paceline.errors import ConfigError
from paceline.planner.settings import engine_models, guessed
from paceline.planning.calibration import entry_text
from paceline.policy.scaling.profiles import get_profile
from tests.planner.world import PROFILE, elastic


def on(
    model: str = "Qwen/Qwen3-32B", *, product: str = "NVIDIA-H200", tensor: int = 2, **notes: str
) -> ModelDeployment:
    md = elastic()
    assert md.spec.pools.prefill is not None
    accelerator = md.spec.pools.prefill.accelerator.model_copy(update={"product": product, "count": tensor})
    pools = {
        role: getattr(md.spec.pools, role).model_copy(update={"accelerator": accelerator})
        for role in ("prefill", "decode")
    }
    spread = md.spec.engine.parallelism.model_copy(update={"tensor": tensor})
    spec = md.spec.model_copy(
        update={
            "model": md.spec.model.model_copy(update={"name": model}),
            "pools": md.spec.pools.model_copy(update=pools),
            "engine": md.spec.engine.model_copy(update={"parallelism": spread}),
        }
    )
    annotations = {labels.ENGINE_PROFILE: notes["profile"]} if notes else {}
    return md.model_copy(update={"spec": spec, "metadata": md.metadata.model_copy(update={"annotations": annotations})})


def test_a_model_that_has_a_profile_is_planned_for_by_it() -> None:
    models = engine_models(on())
    assert models is not None
    assert (models.prefill.name, models.decode.name) == (PROFILE, PROFILE)
    assert guessed(on()) is None


def test_another_layout_of_it_is_carried_over_and_more_gpus_are_faster() -> None:
    known, carried = engine_models(on()), engine_models(on(tensor=8))
    assert known is not None
    assert carried is not None
    assert carried.prefill.prefill_seconds(8000, 0) < known.prefill.prefill_seconds(8000, 0)
    assert "carried over" in (guessed(on(tensor=8)) or "")


def test_a_known_shape_on_a_known_accelerator_is_estimated_and_called_so() -> None:
    md = on("meta-llama/Llama-3.1-8B", product="NVIDIA-L40S", tensor=1)
    models = engine_models(md)
    assert models is not None
    assert models.prefill.estimate
    assert "estimated from data sheets" in (guessed(md) or "")


@pytest.mark.parametrize("md", [on("Somebody/Secret-7B"), on(product="Own-Chip-1"), on("deepseek-ai/DeepSeek-V3")])
def test_what_nobody_knows_or_does_not_fit_has_no_model(md: ModelDeployment) -> None:
    assert engine_models(md) is None
    assert guessed(md) is None


def test_a_name_goes_before_all_else_and_has_to_be_known() -> None:
    named = on("Somebody/Secret-7B", profile=PROFILE)
    models = engine_models(named)
    assert models is not None
    assert models.decode.name == PROFILE
    assert guessed(named) is None
    with pytest.raises(ConfigError, match="engine-profile"):
        engine_models(on(profile="nonsense"))


def test_what_was_measured_here_is_planned_for_as_it_was_written() -> None:
    mine = replace(get_profile(PROFILE), name="mine", step_base=0.02, provenance="measured on our own engines")
    md = on("Somebody/Secret-7B", profile=entry_text(mine))
    models = engine_models(md)
    assert models is not None
    assert models.decode.step_base == pytest.approx(0.02)
    assert models.prefill.provenance == "measured on our own engines"
    assert guessed(md) is None
    with pytest.raises(ConfigError, match=r"metadata.annotations\[paceline.dev/engine-profile\]: not valid .*step_ms"):
        engine_models(on(profile=entry_text(mine).replace("step_ms = [20", "step_ms = [-20")))
