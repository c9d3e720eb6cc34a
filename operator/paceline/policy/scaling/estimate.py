"""An engine profile from first principles, for a model and an accelerator that nobody has measured together.

The terms of :mod:`~paceline.policy.scaling.physics` say what a step has to do at the full speed of the hardware; the
factors below say how far engines are from that. They are fitted to measured latencies of vLLM on other models
(``python -m tests.bench.perfmodel_report --factors``), whose report also says how wrong such an estimate is.
Used by ``paceline plan`` for parallelism that has no profile, and by ``paceline calibrate`` to begin with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from operator import mul
from typing import Final

from paceline.errors import ConfigError
from paceline.policy.scaling.fit import StepPoint, fit_step
from paceline.policy.scaling.perfmodel import EngineProfile
from paceline.policy.scaling.physics import Engine, Precision
from paceline.policy.scaling.profiles import (
    HOST_BYTES_PER_GPU,
    MAX_BATCHED_TOKENS,
    MAX_SEQS,
    TRANSFER_BYTES_PER_GPU,
    TRANSFER_SETUP_SECONDS,
)

GPU_MEMORY_UTILISATION: Final = 0.9
"""vLLM's default ``--gpu-memory-utilization``."""
GPU_OVERHEAD_BYTES: Final = 4 * 1024**3
"""Activations, CUDA graphs and communication buffers of one GPU; an estimate."""
PROVENANCE: Final = "estimated from data sheets with efficiencies of other models on vLLM; not measured"
_BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_CONTEXTS: Final = (512, 2048, 8192)


@dataclass(frozen=True, slots=True)
class Factors:
    """Measured time over the time at the peaks of the hardware, term by term."""

    prefill: tuple[float, ...]
    """Of ``PREFILL_TERMS``."""
    step: tuple[float, ...]
    """Of ``STEP_TERMS``."""


FACTORS: Final = {
    (False, True): Factors(
        prefill=(2.03, 2.26, 3.19, 1.91, 0.511, 0.512, 1.28),
        step=(1.35, 2.0, 1.37, 1.03, 1.48, 2.73, 2.72, 0.502),
    ),
    (False, False): Factors(
        prefill=(1.85, 2.47, 2.31, 1.78, 0.512, 0.513, 1.28),
        step=(1.45, 2.0, 1.45, 1.04, 1.53, 3.32, 3.1, 0.505),
    ),
    # No model with experts and 16-bit weights was measured; those with fewer bits stand in.
    (True, True): Factors(
        prefill=(3.26, 2.89, 3.64, 1.29, 0.512, 0.514, 1.53),
        step=(2.13, 1.49, 1.57, 1.03, 1.52, 4.23, 4.36, 0.472),
    ),
    (True, False): Factors(
        prefill=(3.26, 2.89, 3.64, 1.29, 0.512, 0.514, 1.53),
        step=(2.13, 1.49, 1.57, 1.03, 1.52, 4.23, 4.36, 0.472),
    ),
}
"""By (has experts, weights of 16 bits)."""


def estimate(engine: Engine, *, name: str | None = None) -> EngineProfile:
    """Profile of an engine. Raises ConfigError if its weights leave no room for a KV cache."""
    layout, model, gpu = engine.layout, engine.model, engine.gpu
    room = engine.kv_capacity_tokens(utilisation=GPU_MEMORY_UTILISATION, overhead_bytes=GPU_OVERHEAD_BYTES)
    if room < 1:
        raise ConfigError(
            f"{model.name} in {layout.precision} does not fit on {layout.gpus} × {gpu.name}: weights take "
            f"{engine.weight_bytes_per_gpu / 1024**3:.0f} GiB of each GPU's {gpu.memory_bytes / 1024**3:.0f} GiB. "
            "Spread the engine over more GPUs."
        )
    factors = factors_of(engine)
    # The terms are additive in 1, n and n², so three values tell them apart.
    once = _prefill_seconds(engine, factors, 0.0)
    one, two = (_prefill_seconds(engine, factors, tokens) - once for tokens in (1.0, 2.0))
    attention = max(0.0, two - 2 * one)
    step = fit_step(
        [
            StepPoint(batch, batch * context, _step_seconds(engine, factors, batch, batch * context))
            for batch in _BATCHES
            for context in _CONTEXTS
        ]
    ).coefficients
    quantised = "" if layout.precision is Precision.BF16 else f"-{layout.precision.upper()}"
    return EngineProfile(
        name=name or f"{model.name}{quantised}-{gpu.name}-tp{layout.tensor}".lower(),
        model=f"{model.name}{quantised}",
        accelerator=gpu.name,
        tensor_parallel=layout.tensor,
        prefill_base=once,
        prefill_token=one - attention / 2,
        prefill_attention=attention,
        step_base=step[0],
        step_sequence=step[1],
        step_context=step[2],
        kv_capacity_tokens=room,
        kv_bytes_per_token=engine.kv_bytes_per_token,
        max_seqs=MAX_SEQS,
        max_batched_tokens=MAX_BATCHED_TOKENS,
        transfer_bandwidth=TRANSFER_BYTES_PER_GPU * layout.gpus,
        transfer_setup=TRANSFER_SETUP_SECONDS,
        host_bandwidth=HOST_BYTES_PER_GPU * layout.gpus,
        estimate=True,
        provenance=PROVENANCE,
    )


def rescale(known: EngineProfile, engine: Engine, onto: Engine) -> EngineProfile:
    """The profile ``known`` of ``engine``, carried over to another layout of the same model by the ratio of estimates.

    What the estimate gets wrong about model, GPU and engine version cancels out; what it gets wrong about the layouts
    stays. Raises ConfigError as :func:`estimate` does.
    """
    before, after = estimate(engine), estimate(onto)

    def scaled(field: str) -> float:
        value, low, high = getattr(known, field), getattr(before, field), getattr(after, field)
        return float(value * high / low) if low > 0 else float(high)

    return replace(
        after,
        prefill_base=scaled("prefill_base"),
        prefill_token=scaled("prefill_token"),
        prefill_attention=scaled("prefill_attention"),
        step_base=scaled("step_base"),
        step_sequence=scaled("step_sequence"),
        step_context=scaled("step_context"),
        model=known.model,
        max_seqs=known.max_seqs,
        max_batched_tokens=known.max_batched_tokens,
        provenance=f"{known.name}, carried over to {onto.layout.gpus} GPUs by an estimate; not measured",
    )


def factors_of(engine: Engine) -> Factors:
    """Those of the measured engines that are most like this one."""
    return FACTORS[bool(engine.model.experts), engine.layout.precision is Precision.BF16]


def _prefill_seconds(engine: Engine, factors: Factors, tokens: float) -> float:
    return math.fsum(map(mul, factors.prefill, engine.prefill_terms(tokens)))


def _step_seconds(engine: Engine, factors: Factors, batch: float, context: float) -> float:
    return math.fsum(map(mul, factors.step, engine.step_terms(batch, context)))
