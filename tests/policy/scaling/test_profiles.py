"""Profiles by name and by hardware, and the memory that is left for KV blocks."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from paceline.errors import ConfigError
from paceline.policy.scaling.hardware import find_gpu, find_model
from paceline.policy.scaling.physics import Engine, Layout, Precision
from paceline.policy.scaling.profiles import (
    MAX_TEXT,
    find_profile,
    get_profile,
    known_profiles,
    profile_of,
    read_profiles,
)

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


def entry(**changes: object) -> str:
    fields: dict[str, object] = {
        "name": "mine", "model": "Mine", "accelerator": "h100", "tensor_parallel": 1, "prefill_ms": [4.0, 0.02, 1e-6],
        "step_ms": [6.0, 0.01, 4e-5], "kv_capacity_tokens": 400_000, "kv_bytes_per_token": 131_072, "estimate": False,
        "provenance": "measured by me",
    } | changes  # fmt: skip
    lines = [f"{name} = {json.dumps(value)}" for name, value in fields.items() if value is not None]
    return "\n".join(["[[profile]]", *lines, ""])


def test_a_profiles_file_holds_times_in_milliseconds() -> None:
    profile = read_profiles(entry(), "mine.toml")["mine"]
    assert profile.prefill_seconds(1000) == pytest.approx(0.004 + 0.02 + 0.0005)
    assert profile.step_seconds(10, 1000) == pytest.approx(0.006 + 0.0001 + 0.00004)
    assert profile.transfer_bandwidth == 40e9


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"step_ms": [6.0, -0.01, 4e-5]}, r"Expected `float` >= 0.*step_ms"),
        ({"step_ms": [0.0, 0.01, 4e-5]}, r"Expected `float` > 0.*step_ms"),
        ({"prefill_ms": [4.0, 0.02]}, r"length 3.*prefill_ms"),
        ({"provenance": ""}, "provenance"),
        ({"estimate": None}, "estimate"),
        ({"kv_capacity_tokens": 0}, "kv_capacity_tokens"),
        ({"kv_capacity": 5}, "kv_capacity"),
    ],
)
def test_a_bad_entry_is_refused_with_the_name_of_its_field(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=rf"mine.toml: not valid engine profiles: .*{named}"):
        read_profiles(entry(**changes), "mine.toml")


def test_two_entries_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="same name"):
        read_profiles(entry() + entry(), "mine.toml")


def test_a_profile_is_named_or_given_as_it_is() -> None:
    assert profile_of("tiny-cpu", "here") is get_profile("tiny-cpu")
    assert profile_of(entry(), "here") == read_profiles(entry(), "mine.toml")["mine"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("warp", "here: engine profile 'warp' is not known. Known profiles: "),
        ("", "here: engine profile '' is not known"),
        (entry() + entry(name="other"), "here: holds 2 engine profiles; leave the one that is meant"),
        (entry(tensor_parallel=0), "here: not valid engine profiles: .*tensor_parallel"),
        ("speed = ", "here: not valid engine profiles"),
        (
            entry(provenance="x" * MAX_TEXT),
            f"here: .* characters are too many for one engine profile; at most {MAX_TEXT}",
        ),
    ],
)
def test_what_is_no_profile_is_refused_with_where_it_stands(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        profile_of(text, "here")


def test_a_file_that_is_not_toml_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"mine.toml: not valid engine profiles"):
        read_profiles("[[profile", "mine.toml")


@pytest.mark.parametrize("name", sorted(known_profiles().keys() - {"tiny-cpu"}))
def test_the_kv_capacity_of_a_known_profile_is_what_its_weights_leave_free(name: str) -> None:
    profile = get_profile(name)
    model, gpu = find_model(profile.model), find_gpu(profile.accelerator)
    assert model is not None
    assert gpu is not None
    eight_bits = profile.model.endswith("-FP8") or profile.model == "DeepSeek-V3"
    layout = Layout(tensor=profile.tensor_parallel, precision=Precision.FP8 if eight_bits else Precision.BF16)
    room = Engine(model, gpu, layout).kv_capacity_tokens(utilisation=0.9, overhead_bytes=4 * 1024**3)
    assert profile.kv_capacity_tokens == pytest.approx(room, rel=0.01)
    assert profile.kv_bytes_per_token == Engine(model, gpu, layout).kv_bytes_per_token


def test_the_profiles_hold_the_published_fits() -> None:
    path = SHARED_DATA / "perf" / "engine_coefficients.json"
    if not path.exists():
        pytest.skip("needs the shared data: set PACELINE_DATA to its folder")
    for fit in json.loads(path.read_text())["engines"]:
        quantised = "-FP8" if fit["options"].get("gemm_quant_mode") == "fp8" else ""
        name = find_profile(fit["model"] + quantised, fit["system"].replace("_", " "), fit["tensor_parallel"])
        assert name is not None
        profile = get_profile(name)
        prefill = profile.prefill_base, profile.prefill_token, profile.prefill_attention
        step = profile.step_base, profile.step_sequence, profile.step_context
        assert [x * 1e3 for x in prefill] == pytest.approx([fit["prefill_ms"][k] for k in "abc"], rel=1e-5)
        assert [x * 1e3 for x in step] == pytest.approx([fit["decode_step_ms"][k] for k in "abc"], rel=1e-5)
