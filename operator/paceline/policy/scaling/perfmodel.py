"""How long one engine takes: the closed-form model that planner, router, simulator and emulator share.

Prefill is linear in the new tokens plus attention over everything before them; a decode step is linear in the
sequences and in the total context that they attend to. Coefficients come from
:mod:`paceline.policy.scaling.profiles` or from a calibration run on the engine itself.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProfile:
    """One model on one kind of accelerator at one tensor parallel size. Times in seconds, sizes in tokens or bytes."""

    name: str
    model: str
    accelerator: str
    tensor_parallel: int
    prefill_base: float
    """a: seconds of a prefill step, however short."""
    prefill_token: float
    """b: seconds a new token."""
    prefill_attention: float
    """c: seconds for each pair of a new token and a token before it."""
    step_base: float
    """a': seconds of a decode step, however small the batch (reading the weights)."""
    step_sequence: float
    """b': seconds a sequence in the batch."""
    step_context: float
    """c': seconds a token of context that the batch attends to (reading the KV cache)."""
    kv_capacity_tokens: int
    """Tokens that fit into the accelerators' KV cache."""
    kv_bytes_per_token: int
    """Of all layers and all ranks together: what a transfer moves."""
    max_seqs: int
    """Sequences in one batch (vLLM's ``--max-num-seqs``)."""
    max_batched_tokens: int
    """Tokens in one step (vLLM's ``--max-num-batched-tokens``)."""
    host_tier_tokens: int = 0
    """Tokens that fit into the host memory tier; 0 when there is none."""
    transfer_bandwidth: float
    """Bytes a second between two engines."""
    transfer_setup: float
    """Seconds before the first byte of a transfer between engines."""
    host_bandwidth: float
    """Bytes a second from the host tier to the accelerators."""
    estimate: bool
    """True unless every coefficient was measured on the hardware itself."""
    provenance: str
    """Where the coefficients come from."""

    def __post_init__(self) -> None:
        positive = (
            "tensor_parallel", "step_base", "kv_capacity_tokens", "kv_bytes_per_token", "max_seqs",
            "max_batched_tokens", "transfer_bandwidth", "host_bandwidth",
        )  # fmt: skip
        not_negative = (
            "prefill_base", "prefill_token", "prefill_attention", "step_sequence", "step_context", "host_tier_tokens",
            "transfer_setup",
        )  # fmt: skip
        for field in positive:
            if not getattr(self, field) > 0:
                raise ValueError(f"{field} of engine profile {self.name} must be positive, not {getattr(self, field)}")
        for field in not_negative:
            if not getattr(self, field) >= 0:
                raise ValueError(f"{field} of engine profile {self.name} can't be negative: {getattr(self, field)}")

    def prefill_work(self, new_tokens: int, cached_tokens: int) -> float:
        """Seconds that ``new_tokens`` after ``cached_tokens`` add to a step. Additive over chunks of one prompt."""
        return new_tokens * (self.prefill_token + self.prefill_attention * (cached_tokens + new_tokens / 2))

    def decode_work(self, sequences: float, context_tokens: float) -> float:
        """Seconds that ``sequences`` decoding over ``context_tokens`` in total add to a step."""
        return self.step_sequence * sequences + self.step_context * context_tokens

    def prefill_seconds(self, new_tokens: int, cached_tokens: int = 0) -> float:
        """Seconds to prefill ``new_tokens`` that follow ``cached_tokens``, in one step of their own; 0 for nothing."""
        return self.prefill_base + self.prefill_work(new_tokens, cached_tokens) if new_tokens > 0 else 0.0

    def step_seconds(self, sequences: float, context_tokens: float) -> float:
        """Seconds of one decode step of ``sequences`` with ``context_tokens`` in total; 0 for an empty batch."""
        return self.step_base + self.decode_work(sequences, context_tokens) if sequences > 0 else 0.0

    def mixed_seconds(self, prefill_work: float, sequences: int, context_tokens: int) -> float:
        """Seconds of a step with prefill chunks (their summed :meth:`prefill_work`) and ``sequences`` decoding.

        The two share one pass over the weights, so the larger of the bases is paid once and the work of both is added.
        """
        if prefill_work <= 0:
            return self.step_seconds(sequences, context_tokens)
        if sequences <= 0:
            return self.prefill_base + prefill_work
        return max(self.prefill_base, self.step_base) + prefill_work + self.decode_work(sequences, context_tokens)

    def decode_run_seconds(self, steps: int, sequences: int, context_tokens: int) -> float:
        """Seconds of ``steps`` decode steps of a batch that starts at ``context_tokens`` and grows by itself."""
        grown = sequences * steps * (steps - 1) // 2
        return steps * self.step_seconds(sequences, context_tokens) + self.step_context * grown

    def transfer_seconds(self, tokens: int) -> float:
        """Seconds to move the KV blocks of ``tokens`` between two engines; 0 for nothing."""
        return self.transfer_setup + tokens * self.kv_bytes_per_token / self.transfer_bandwidth if tokens > 0 else 0.0

    def host_load_seconds(self, tokens: int) -> float:
        """Seconds to bring the KV blocks of ``tokens`` back from host memory."""
        return tokens * self.kv_bytes_per_token / self.host_bandwidth
