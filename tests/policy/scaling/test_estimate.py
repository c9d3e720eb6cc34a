"""Estimates from data sheets: in the range of the known profiles, with the signs that physics demands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.errors import ConfigError
from paceline.policy.scaling.estimate import estimate, rescale
from paceline.policy.scaling.hardware import find_gpu, find_model, gpus, models, short_name
from paceline.policy.scaling.perfmodel import EngineProfile
from paceline.policy.scaling.physics import PREFILL_TERMS, STEP_TERMS, Engine, Layout, Precision
from paceline.policy.scaling.profiles import get_profile, known_profiles

PREFILL_FACTOR = 2.1
STEP_FACTOR = 1.4
"""How far estimates, which are fitted to measured engines, may be from the profiles, which are fitted to a table."""
KNOWN = sorted(known_profiles().keys() - {"tiny-cpu"})


def engine(model: str, gpu: str, tensor: int, precision: Precision = Precision.BF16, data: int = 1) -> Engine:
    shape, accelerator = find_model(model), find_gpu(gpu)
    assert shape is not None
    assert accelerator is not None
    return Engine(shape, accelerator, Layout(tensor=tensor, data=data, precision=precision))


def estimated(profile: EngineProfile) -> EngineProfile:
    eight_bits = profile.model.endswith("-FP8") or profile.model.startswith("DeepSeek")
    precision = Precision.FP8 if eight_bits else Precision.BF16
    return estimate(engine(profile.model, profile.accelerator, profile.tensor_parallel, precision))


@pytest.mark.parametrize("name", KNOWN)
def test_prefill_is_within_a_factor_of_the_known_profile(name: str) -> None:
    known = get_profile(name)
    for tokens in (256, 2048, 16_000, 60_000):
        ratio = estimated(known).prefill_seconds(tokens) / known.prefill_seconds(tokens)
        assert 1 / PREFILL_FACTOR < ratio < PREFILL_FACTOR


@pytest.mark.parametrize("name", [name for name in KNOWN if not name.startswith("deepseek")])
def test_a_decode_step_is_within_a_factor_of_the_known_profile(name: str) -> None:
    known = get_profile(name)
    for batch, context in ((1, 1000), (16, 2000), (64, 2000), (128, 4000)):
        ratio = estimated(known).step_seconds(batch, batch * context) / known.step_seconds(batch, batch * context)
        assert 1 / STEP_FACTOR < ratio < STEP_FACTOR


@pytest.mark.parametrize("name", KNOWN)
def test_an_estimate_says_that_it_is_one(name: str) -> None:
    made = estimated(get_profile(name))
    assert made.estimate
    assert "not measured" in made.provenance
    assert made.kv_capacity_tokens == pytest.approx(get_profile(name).kv_capacity_tokens, rel=0.01)


@given(
    model=st.sampled_from(sorted(models())), gpu=st.sampled_from(sorted(gpus())), tensor=st.sampled_from((1, 2, 4, 8))
)
def test_whatever_fits_gets_a_profile_and_the_rest_a_reason(model: str, gpu: str, tensor: int) -> None:
    one = engine(model, gpu, tensor, Precision.FP8)
    try:
        made = estimate(one)
    except ConfigError as error:
        assert "does not fit" in str(error)  # noqa: PT017
        assert "more GPUs" in str(error)  # noqa: PT017
    else:
        assert made.kv_capacity_tokens > 0
        assert made.step_seconds(64, 64_000) >= made.step_seconds(1, 1000)
        assert made.prefill_seconds(8000) > made.prefill_seconds(1000)


def test_more_gpus_compute_faster_but_not_as_many_times_faster() -> None:
    two, four = (estimate(engine("Qwen3-32B", "h200", tensor)) for tensor in (2, 4))
    assert 1 < two.prefill_seconds(8000) / four.prefill_seconds(8000) < 2
    assert 1 < two.step_seconds(32, 64_000) / four.step_seconds(32, 64_000) < 2


def test_more_memory_bandwidth_makes_steps_faster_and_prefill_hardly() -> None:
    old, new = (estimate(engine("Llama-3.1-70B", gpu, 4)) for gpu in ("h100", "h200"))
    assert new.step_seconds(32, 64_000) < 0.85 * old.step_seconds(32, 64_000)
    assert new.prefill_seconds(8000) == pytest.approx(old.prefill_seconds(8000), rel=0.05)


def test_a_batch_touches_more_experts_than_one_token() -> None:
    shape = find_model("Qwen3-235B-A22B-FP8")
    assert shape is not None
    assert shape.routed_share(1) == pytest.approx(8 / 128)
    assert shape.routed_share(64) > 0.98
    alone = engine("Qwen3-235B-A22B", "h200", 4, Precision.FP8)
    place = STEP_TERMS.index("experts")
    assert alone.step_terms(1, 1000)[place] == 0
    assert alone.step_terms(32, 1000)[place] > 0


def test_a_latent_cache_is_held_whole_by_every_rank_and_heads_are_split() -> None:
    latent = engine("DeepSeek-V3", "h200", 8, Precision.FP8)
    assert latent.kv_bytes_per_token_per_gpu == latent.kv_bytes_per_token == 70_272
    heads = engine("Qwen3-32B", "h200", 4)
    assert heads.kv_bytes_per_token_per_gpu == heads.kv_bytes_per_token / 4
    few = engine("Qwen3-235B-A22B", "h200", 8, Precision.FP8)
    assert few.kv_bytes_per_token_per_gpu == few.kv_bytes_per_token / 4


def test_data_parallel_ranks_share_experts_and_repeat_the_rest() -> None:
    tensor = engine("DeepSeek-V3", "h200", 8, Precision.FP8)
    data = engine("DeepSeek-V3", "h200", 1, Precision.FP8, data=8)
    assert data.layout.gpus == tensor.layout.gpus
    assert data.weight_bytes_per_gpu > tensor.weight_bytes_per_gpu
    room = {"utilisation": 0.9, "overhead_bytes": 4 * 1024**3}
    assert data.kv_capacity_tokens(**room) > 4 * tensor.kv_capacity_tokens(**room)


@given(st.integers(1, 50_000), st.integers(0, 50_000))
def test_terms_are_named_and_never_negative(new: int, cached: int) -> None:
    one = engine("Kimi-K2.5", "b200", 8, Precision.INT4)
    assert len(one.prefill_terms(new, cached)) == len(PREFILL_TERMS)
    assert len(one.step_terms(new, cached)) == len(STEP_TERMS)
    assert min(*one.prefill_terms(new, cached), *one.step_terms(new, cached)) >= 0


def test_a_known_profile_carried_over_to_its_own_layout_is_itself() -> None:
    known = get_profile("qwen3-32b-h200-tp2")
    here = engine("Qwen3-32B", "h200", 2)
    again = rescale(known, here, here)
    assert again.prefill_seconds(5000, 1000) == pytest.approx(known.prefill_seconds(5000, 1000))
    assert again.step_seconds(50, 100_000) == pytest.approx(known.step_seconds(50, 100_000))


def test_a_profile_carried_over_says_from_where() -> None:
    known = get_profile("qwen3-32b-h200-tp2")
    four = rescale(known, engine("Qwen3-32B", "h200", 2), engine("Qwen3-32B", "h200", 4))
    assert four.tensor_parallel == 4
    assert four.name == "qwen3-32b-h200-tp4"
    assert 1 < known.prefill_seconds(8000) / four.prefill_seconds(8000) < 2
    assert four.estimate
    assert four.provenance.startswith("qwen3-32b-h200-tp2, carried over to 4 GPUs")


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("Qwen/Qwen3-32B", "qwen3-32b"),
        ("meta-llama/Meta-Llama-3.1-70B-Instruct-FP8", "llama-3.1-70b"),
        ("RedHatAI/Llama-3.3-70B-Instruct-quantized.w8a8", "llama-3.3-70b"),
        ("openai/gpt-oss-120b", "gpt-oss-120b"),
    ],
)
def test_models_are_found_without_organisation_and_suffixes(name: str, short: str) -> None:
    assert short_name(name) == short
    assert find_model(name) is not None


def test_gpus_are_found_by_a_word_of_their_product_name() -> None:
    found = find_gpu("NVIDIA-H100-80GB-HBM3")
    assert found is not None
    assert found.name == "h100"
    assert find_gpu("NVIDIA-T4") is None
