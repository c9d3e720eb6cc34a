"""The engine profiles that Paceline knows by name, such as ``qwen3-32b-h200-tp2``.

The emulator's ``--profile``, the router's ``engineProfile`` and the planner look them up here. Step times are fits
to the per-operation tables of aiconfigurator 0.12.0 (Apache-2.0) for vLLM 0.24.0: good to a few percent against that
tool, not measured on hardware, so every profile says ``estimate``. A calibration on the engine itself replaces them.

KV capacity is derived: ``(memory · utilisation − weights / gpus − overhead) / (KV bytes a token on one GPU)``.
Grouped-query heads are split over the tensor parallel ranks; the latent cache of multi-head latent attention is held
whole by each. Model shapes are those of the published ``config.json`` files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from paceline.errors import ConfigError
from paceline.policy.scaling.perfmodel import EngineProfile

__all__ = ["PROFILES", "find_profile", "get_profile", "kv_capacity_tokens"]

GIB: Final = 1024**3

GPU_MEMORY_UTILISATION: Final = 0.9
"""vLLM's default ``--gpu-memory-utilization``."""
GPU_OVERHEAD_BYTES: Final = 4 * GIB
"""Activations, CUDA graphs and communication buffers of one GPU; an estimate."""
TRANSFER_BYTES_PER_GPU: Final = 40e9
"""One 400 Gb/s NIC a GPU at 80%; an estimate."""
TRANSFER_SETUP_SECONDS: Final = 0.005
"""Handshake and descriptors of one NIXL transfer; an estimate."""
HOST_BYTES_PER_GPU: Final = 40e9
"""Host memory to one GPU over PCIe 5 x16 at about 60%; an estimate."""
MAX_SEQS: Final = 256
MAX_BATCHED_TOKENS: Final = 8192

_FITTED: Final = "fit to the per-operation tables of aiconfigurator 0.12.0 (Apache-2.0) for vLLM 0.24.0; not hardware"


@dataclass(frozen=True, slots=True)
class _Model:
    name: str
    weight_bytes: float
    kv_bytes_per_token: int
    kv_split_over_ranks: bool = True


_GPU_BYTES: Final = {"h100": 79.1 * GIB, "h200": 139.8 * GIB}

_LLAMA_8B: Final = _Model("Llama-3.1-8B", 8.03e9 * 2, 2 * 32 * 8 * 128 * 2)
_LLAMA_70B: Final = _Model("Llama-3.1-70B", 70.6e9 * 2, 2 * 80 * 8 * 128 * 2)
_LLAMA_70B_FP8: Final = _Model("Llama-3.1-70B-FP8", 70.6e9, 2 * 80 * 8 * 128 * 2)
_QWEN3_32B: Final = _Model("Qwen3-32B", 32.8e9 * 2, 2 * 64 * 8 * 128 * 2)
_DEEPSEEK_V3: Final = _Model("DeepSeek-V3", 671e9, 61 * (512 + 64) * 2, kv_split_over_ranks=False)


def kv_capacity_tokens(
    *, gpu_bytes: float, gpus: int, weight_bytes: float, kv_bytes_per_token: int, split_over_ranks: bool
) -> int:
    """Tokens of KV cache that fit beside the weights, by the formula above; 0 if the weights don't fit."""
    free = gpu_bytes * GPU_MEMORY_UTILISATION - weight_bytes / gpus - GPU_OVERHEAD_BYTES
    on_one_gpu = kv_bytes_per_token / gpus if split_over_ranks else kv_bytes_per_token
    return max(0, int(free / on_one_gpu))


def _fitted(
    model: _Model,
    accelerator: str,
    gpus: int,
    prefill_ms: tuple[float, float, float],
    step_ms: tuple[float, float, float],
) -> EngineProfile:
    return EngineProfile(
        name=f"{model.name.lower()}-{accelerator}-tp{gpus}",
        model=model.name,
        accelerator=accelerator,
        tensor_parallel=gpus,
        prefill_base=prefill_ms[0] / 1e3,
        prefill_token=prefill_ms[1] / 1e3,
        prefill_attention=prefill_ms[2] / 1e3,
        step_base=step_ms[0] / 1e3,
        step_sequence=step_ms[1] / 1e3,
        step_context=step_ms[2] / 1e3,
        kv_capacity_tokens=kv_capacity_tokens(
            gpu_bytes=_GPU_BYTES[accelerator],
            gpus=gpus,
            weight_bytes=model.weight_bytes,
            kv_bytes_per_token=model.kv_bytes_per_token,
            split_over_ranks=model.kv_split_over_ranks,
        ),
        kv_bytes_per_token=model.kv_bytes_per_token,
        max_seqs=MAX_SEQS,
        max_batched_tokens=MAX_BATCHED_TOKENS,
        transfer_bandwidth=TRANSFER_BYTES_PER_GPU * gpus,
        transfer_setup=TRANSFER_SETUP_SECONDS,
        host_bandwidth=HOST_BYTES_PER_GPU * gpus,
        estimate=True,
        provenance=_FITTED,
    )


_TINY_CPU: Final = EngineProfile(
    name="tiny-cpu",
    model="tiny",
    accelerator="cpu",
    tensor_parallel=1,
    prefill_base=0.004,
    prefill_token=20e-6,
    prefill_attention=2e-9,
    step_base=0.005,
    step_sequence=100e-6,
    step_context=20e-9,
    kv_capacity_tokens=131_072,
    kv_bytes_per_token=2 * 2 * 2 * 32 * 2,
    max_seqs=128,
    max_batched_tokens=2048,
    transfer_bandwidth=1e9,
    transfer_setup=0.002,
    host_bandwidth=4e9,
    estimate=True,
    provenance="round numbers in the range of a two-layer model on two CPU cores; for demos and tests",
)

_KNOWN: Final = (
    _fitted(_DEEPSEEK_V3, "h200", 8, (38.511, 0.0471593, 9.94497e-7), (17.6131, 0.123537, 1.446648e-5)),
    _fitted(_LLAMA_70B_FP8, "h100", 4, (9.52477, 0.0455007, 9.639313e-7), (10.7497, 0.0349429, 2.647346e-5)),
    _fitted(_LLAMA_70B, "h100", 4, (10.0672, 0.0588778, 1.038666e-6), (15.1684, 0.0322778, 2.662507e-5)),
    _fitted(_LLAMA_70B, "h200", 4, (7.39763, 0.0592424, 1.052424e-6), (12.1966, 0.0318000, 1.859411e-5)),
    _fitted(_LLAMA_8B, "h100", 1, (4.14085, 0.0184685, 8.295163e-7), (6.41229, 0.0110714, 4.188364e-5)),
    _fitted(_LLAMA_8B, "h200", 1, (2.86125, 0.0189763, 8.339694e-7), (4.92994, 0.0117947, 2.967809e-5)),
    _fitted(_QWEN3_32B, "h100", 2, (10.2678, 0.0463942, 1.671077e-6), (13.6016, 0.0264246, 4.243859e-5)),
    _fitted(_QWEN3_32B, "h200", 2, (7.83404, 0.0465316, 1.703414e-6), (10.6824, 0.0248906, 2.996359e-5)),
    _TINY_CPU,
)

PROFILES: Final = {profile.name: profile for profile in _KNOWN}

_WORD: Final = re.compile(r"[a-z0-9]+")
_MODEL_NOISE: Final = re.compile(r"^meta-|-(instruct|chat|base|it)\b")


def get_profile(name: str) -> EngineProfile:
    """The profile of that name. Raises ConfigError, which lists the known ones."""
    try:
        return PROFILES[name]
    except KeyError:
        known = ", ".join(sorted(PROFILES))
        raise ConfigError(f"engine profile {name!r} is not known. Known profiles: {known}.") from None


def find_profile(model: str, product: str, tensor_parallel: int) -> str | None:
    """Name of the profile for a model (``Qwen/Qwen3-32B``), an accelerator product (``NVIDIA-H200``) and a TP size.

    None if there is none. Organisation, ``Meta-`` and suffixes such as ``-Instruct`` don't matter, quantisation
    (``-FP8``) does.
    """
    wanted = _MODEL_NOISE.sub("", model.rsplit("/", 1)[-1].lower())
    words = set(_WORD.findall(product.lower()))
    for profile in _KNOWN:
        if (
            profile.model.lower() == wanted
            and profile.accelerator in words
            and profile.tensor_parallel == tensor_parallel
        ):
            return profile.name
    return None
