"""What a step of an engine has to do, term by term, in seconds at the full speed of the hardware.

Each term is a count (bytes read, operations, bytes sent, kernels started) over a peak of the data sheet. No engine
reaches the peaks, so :mod:`~paceline.policy.scaling.estimate` multiplies each term by a factor that was fitted to
measured engines. The report on measured latencies fits those factors; both use the terms of this module.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

LAUNCH_SECONDS: Final = 10e-6
"""Of one layer's kernels: the unit of the terms ``launch`` and ``latency``."""
TOKEN_SECONDS: Final = 1e-6
"""Host work for one prompt token: the unit of the term ``token``."""
SEQUENCE_SECONDS: Final = 10e-6
"""Host work for one sequence of a step: the unit of the term ``sequence``."""
ACTIVATION_BYTES: Final = 2
REDUCTIONS: Final = 2
"""All-reduces of a layer under tensor parallelism: after attention and after the MLP."""

STEP_TERMS: Final = ("weights", "experts", "kv", "compute", "exchange", "launch", "latency", "sequence")
PREFILL_TERMS: Final = ("compute", "attention", "exchange", "weights", "launch", "latency", "token")


class Precision(StrEnum):
    """How the large matrices are stored."""

    BF16 = "bf16"
    FP8 = "fp8"
    FP4 = "fp4"
    INT4 = "int4"


_WEIGHT_BYTES: Final = {Precision.BF16: 2.0, Precision.FP8: 1.0, Precision.FP4: 0.5625, Precision.INT4: 0.53}
"""Bytes of one parameter, block scales included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One accelerator, as its data sheet says."""

    name: str
    bf16_flops: float
    fp8_flops: float
    fp4_flops: float
    memory_bandwidth: float
    """Bytes a second."""
    memory_bytes: float
    link_bandwidth: float
    """Bytes a second to its neighbours, in one direction."""

    def flops(self, precision: Precision) -> float:
        """Peak at which matrices of this precision are multiplied. Four-bit integers are widened to 16 bits first."""
        return {Precision.FP8: self.fp8_flops, Precision.FP4: self.fp4_flops}.get(precision, self.bf16_flops)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The shape of one model."""

    name: str
    parameters: float
    active: float
    """Parameters that one token goes through: all of them without experts."""
    layers: int
    hidden: int
    heads: int
    head_size: int
    kv_heads: int
    kv_values: int
    """Values that one token leaves in the cache of one attention layer."""
    attention_layers: int
    experts: int = 0
    experts_per_token: int = 0
    latent: bool = False
    """Whether the cache holds one latent vector for all heads, whole on every rank."""

    @property
    def routed(self) -> float:
        """Parameters of the experts among which tokens are routed; 0 without experts."""
        return (self.parameters - self.active) / (1 - self.routed_share(1)) if self.experts else 0.0

    def routed_share(self, tokens: float) -> float:
        """Share of the experts that at least one of ``tokens`` goes to, if each chooses evenly; 0 without experts."""
        return 1 - (1 - self.experts_per_token / self.experts) ** tokens if self.experts else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How one engine is spread over accelerators, and how its numbers are stored."""

    tensor: int = 1
    data: int = 1
    expert_parallel: bool = False
    precision: Precision = Precision.BF16
    expert_precision: Precision | None = None
    """None: as the rest."""
    kv_bytes: int = 2
    """Bytes of one value in the KV cache."""

    @property
    def gpus(self) -> int:
        """Accelerators of one engine."""
        return self.tensor * self.data


@dataclass(frozen=True, slots=True)
class Engine:
    """One model on one kind of accelerator in one layout."""

    model: Model
    gpu: Gpu
    layout: Layout

    @property
    def dense_bytes(self) -> float:
        """Bytes of all weights that every token goes through."""
        layout, model = self.layout, self.model
        # Four-bit models with experts keep everything else in 16 bits.
        four_bits = layout.precision in (Precision.FP4, Precision.INT4)
        width = 2.0 if four_bits and model.experts else _WEIGHT_BYTES[layout.precision]
        return (model.parameters - model.routed) * width

    @property
    def routed_bytes(self) -> float:
        """Bytes of all experts among which tokens are routed."""
        return self.model.routed * _WEIGHT_BYTES[self.layout.expert_precision or self.layout.precision]

    @property
    def weight_bytes_per_gpu(self) -> float:
        """Bytes of weights on one accelerator: data parallel ranks share the experts and repeat the rest."""
        return self.dense_bytes / self.layout.tensor + self.routed_bytes / self.layout.gpus

    @property
    def kv_bytes_per_token(self) -> int:
        """Of all layers: what a transfer moves."""
        return self.model.kv_values * self.model.attention_layers * self.layout.kv_bytes

    @property
    def kv_bytes_per_token_per_gpu(self) -> float:
        """What one token takes on one accelerator. Key and value heads are split as far as there are any."""
        ranks = 1 if self.model.latent else min(self.layout.tensor, self.model.kv_heads)
        return self.kv_bytes_per_token / ranks

    def step_terms(self, sequences: float, context_tokens: float) -> tuple[float, ...]:
        """Seconds of ``STEP_TERMS`` for one decode step of a batch with ``context_tokens`` in total."""
        model, gpu, layout = self.model, self.gpu, self.layout
        one = model.routed_share(1)
        here = sequences / layout.data
        more = max(0.0, model.routed_share(sequences) - one)
        return (
            (self.dense_bytes / layout.tensor + self.routed_bytes * one / layout.gpus) / gpu.memory_bandwidth,
            self.routed_bytes * more / layout.gpus / gpu.memory_bandwidth,
            context_tokens / layout.data * self.kv_bytes_per_token_per_gpu / gpu.memory_bandwidth,
            2 * model.active * sequences / (layout.gpus * gpu.flops(layout.precision)),
            self._exchange(here, sequences),
            model.layers * LAUNCH_SECONDS,
            model.layers * LAUNCH_SECONDS * (layout.tensor > 1),
            here * SEQUENCE_SECONDS,
        )

    def prefill_terms(self, new_tokens: float, cached_tokens: float = 0.0) -> tuple[float, ...]:
        """Seconds of ``PREFILL_TERMS`` for ``new_tokens`` of one prompt that follow ``cached_tokens``."""
        model, gpu, layout = self.model, self.gpu, self.layout
        pairs = new_tokens * (cached_tokens + new_tokens / 2)
        # Scores and weighted values: two products of 2 operations for each pair, head and value of a head.
        attention = 4 * model.attention_layers * model.heads * model.head_size * pairs
        return (
            2 * model.active * new_tokens / (layout.tensor * gpu.flops(layout.precision)),
            attention / (layout.tensor * gpu.bf16_flops),
            self._exchange(new_tokens, new_tokens),
            self.weight_bytes_per_gpu / gpu.memory_bandwidth,
            model.layers * LAUNCH_SECONDS,
            model.layers * LAUNCH_SECONDS * (layout.tensor > 1),
            new_tokens * TOKEN_SECONDS,
        )

    def kv_capacity_tokens(self, *, utilisation: float, overhead_bytes: float) -> int:
        """Tokens of KV cache that fit beside the weights, on all data parallel ranks together; 0 if nothing fits."""
        free = self.gpu.memory_bytes * utilisation - self.weight_bytes_per_gpu - overhead_bytes
        return max(0, math.floor(free / self.kv_bytes_per_token_per_gpu)) * self.layout.data

    def _exchange(self, tokens_per_rank: float, tokens: float) -> float:
        """Seconds on the links: ring all-reduces of the activations, and routing to experts and back."""
        model, layout = self.model, self.layout
        each = model.hidden * ACTIVATION_BYTES * model.layers / self.gpu.link_bandwidth
        reduced = tokens_per_rank * REDUCTIONS * 2 * (1 - 1 / layout.tensor)
        routed = 2 * tokens * model.experts_per_token / layout.gpus if layout.expert_parallel else 0.0
        return each * (reduced + routed)
