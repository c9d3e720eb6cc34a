"""What placement knows of an engine: a frozen value that the router (or the simulator) makes anew when it changes."""

from __future__ import annotations

from typing import Protocol

import msgspec

from paceline.api.wire import Role


class EngineView(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One engine at one moment."""

    name: str
    role: Role
    revision: str = ""
    """Engines of different revisions never exchange KV blocks."""
    usable: bool = True
    """Ready, healthy, not draining: it may get new work."""
    running: int = 0
    """Requests there, running or waiting, from whichever router they came; remote prefills not among them."""
    context_tokens: int = 0
    """Tokens of context of those requests."""
    prefill_backlog_seconds: float = 0.0
    """Until it is done with the prefill work that it has, through the engine model."""
    owed_seconds: float = 0.0
    """For which its streams are to have steps without short prompts; see :mod:`~paceline.policy.routing.pacing`."""
    prefilling: int = 0
    """Remote prefills of this router there, running or waiting."""
    kv_usage: float = 0.0
    """Share of its KV cache in use, 0 to 1, as it reports it."""
    zone: str = ""
    node: str = ""
    adapters: frozenset[str] | None = None
    """LoRA adapters at work there; None when it does not say."""

    @property
    def decodes(self) -> bool:
        """Whether its role lets it serve a request to its end."""
        return self.role is not Role.PREFILL

    @property
    def prefills(self) -> bool:
        """Whether its role lets it prefill for others."""
        return self.role is not Role.DECODE


class EngineModel(Protocol):
    """The part of an engine profile that placement uses. Times in seconds."""

    @property
    def kv_capacity_tokens(self) -> int:
        """Tokens that fit into the KV cache; 0 when that is not known."""
        ...

    def prefill_seconds(self, new_tokens: int, cached_tokens: int = 0) -> float:
        """Time to prefill ``new_tokens`` after ``cached_tokens``."""
        ...

    def step_seconds(self, sequences: int, context_tokens: int) -> float:
        """Time of one decode step; linear in both from one sequence on."""
        ...

    def transfer_seconds(self, tokens: int) -> float:
        """Time to move the KV blocks of ``tokens`` between two engines."""
        ...


class NominalModel:
    """Stands in where nothing is known of the hardware. Only its ratios matter: those of a mid-size GPU."""

    __slots__ = ()

    kv_capacity_tokens = 0

    def prefill_seconds(self, new_tokens: int, cached_tokens: int = 0) -> float:  # noqa: ARG002 - see EngineModel
        """10,000 tokens a second after a base of 10 ms."""
        return 0.01 + new_tokens * 1e-4 if new_tokens > 0 else 0.0

    def step_seconds(self, sequences: int, context_tokens: int) -> float:
        """10 ms, and more with every sequence and with their context."""
        return 0.01 + sequences * 2e-4 + context_tokens * 2e-8 if sequences > 0 else 0.0

    def transfer_seconds(self, tokens: int) -> float:
        """10 ms of handshake and a million tokens a second."""
        return 0.01 + tokens * 1e-6 if tokens > 0 else 0.0


class FasterModel:
    """A model of engines that run ``speed`` times as fast as ``model`` says."""

    __slots__ = ("_model", "_speed", "kv_capacity_tokens")

    def __init__(self, model: EngineModel, speed: float) -> None:
        self._model = model
        self._speed = speed
        self.kv_capacity_tokens = model.kv_capacity_tokens

    def prefill_seconds(self, new_tokens: int, cached_tokens: int = 0) -> float:
        """See :class:`EngineModel`."""
        return self._model.prefill_seconds(new_tokens, cached_tokens) / self._speed

    def step_seconds(self, sequences: int, context_tokens: int) -> float:
        """See :class:`EngineModel`."""
        return self._model.step_seconds(sequences, context_tokens) / self._speed

    def transfer_seconds(self, tokens: int) -> float:
        """See :class:`EngineModel`."""
        return self._model.transfer_seconds(tokens) / self._speed
