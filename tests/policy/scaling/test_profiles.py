"""Profiles by name and by hardware, and the memory that is left for KV blocks."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from paceline.errors import ConfigError
from paceline.policy.scaling.profiles import PROFILES, find_profile, get_profile, kv_capacity_tokens

SHARED_DATA = Path(os.environ.get("PACELINE_DATA") or Path(__file__).resolve().parents[4] / "shared" / "data")


def test_an_unknown_profile_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'h100' is not known. Known profiles: .*qwen3-32b-h200-tp2"):
        get_profile("h100")


@pytest.mark.parametrize(
    ("model", "product", "tensor_parallel", "name"),
    [
        ("Qwen/Qwen3-32B", "NVIDIA-H200", 2, "qwen3-32b-h200-tp2"),
        ("Qwen3-32B", "NVIDIA H100 80GB HBM3", 2, "qwen3-32b-h100-tp2"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "H100", 1, "llama-3.1-8b-h100-tp1"),
        ("meta-llama/Llama-3.1-70B-Instruct-FP8", "nvidia-h100-80gb-hbm3", 4, "llama-3.1-70b-fp8-h100-tp4"),
        ("deepseek-ai/DeepSeek-V3", "NVIDIA-H200", 8, "deepseek-v3-h200-tp8"),
        ("Qwen/Qwen3-32B", "NVIDIA-H200", 4, None),
        ("Qwen/Qwen3-32B", "NVIDIA-A100", 2, None),
        ("Qwen/Qwen3-32B-FP8", "NVIDIA-H200", 2, None),
        ("Qwen/Qwen3-3", "NVIDIA-H200", 2, None),
    ],
)
def test_a_profile_is_found_by_model_product_and_tensor_parallelism(
    model: str, product: str, tensor_parallel: int, name: str | None
) -> None:
    assert find_profile(model, product, tensor_parallel) == name


def test_kv_capacity_is_what_the_weights_leave_free() -> None:
    tokens = kv_capacity_tokens(
        gpu_bytes=100e9, gpus=2, weight_bytes=40e9, kv_bytes_per_token=200_000, split_over_ranks=True
    )
    assert tokens == int((90e9 - 20e9 - 4 * 1024**3) / 100_000)


def test_a_latent_cache_is_held_whole_by_every_rank() -> None:
    sizes = {"gpu_bytes": 100e9, "gpus": 8, "weight_bytes": 80e9, "kv_bytes_per_token": 70_000}
    split = kv_capacity_tokens(**sizes, split_over_ranks=True)  # type: ignore[arg-type]
    whole = kv_capacity_tokens(**sizes, split_over_ranks=False)  # type: ignore[arg-type]
    assert split == pytest.approx(8 * whole, rel=1e-4)


def test_weights_that_do_not_fit_leave_no_room() -> None:
    assert not kv_capacity_tokens(
        gpu_bytes=80e9, gpus=1, weight_bytes=140e9, kv_bytes_per_token=1, split_over_ranks=True
    )


def test_the_profiles_hold_the_published_fits() -> None:
    path = SHARED_DATA / "perf" / "engine_coefficients.json"
    if not path.exists():
        pytest.skip("needs the shared data: set PACELINE_DATA to its folder")
    for fit in json.loads(path.read_text())["engines"]:
        quantised = "-FP8" if fit["options"].get("gemm_quant_mode") == "fp8" else ""
        name = find_profile(fit["model"] + quantised, fit["system"].replace("_", " "), fit["tensor_parallel"])
        assert name is not None
        profile = PROFILES[name]
        prefill = profile.prefill_base, profile.prefill_token, profile.prefill_attention
        step = profile.step_base, profile.step_sequence, profile.step_context
        assert [x * 1e3 for x in prefill] == pytest.approx([fit["prefill_ms"][k] for k in "abc"], rel=1e-5)
        assert [x * 1e3 for x in step] == pytest.approx([fit["decode_step_ms"][k] for k in "abc"], rel=1e-5)
