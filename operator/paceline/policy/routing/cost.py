"""What it would cost to serve one request on one engine, in seconds through the engine model, term by term.

Used by :mod:`paceline.policy.routing.placement` to choose, and by the router to explain a choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from paceline.policy.routing.fleet import EngineModel, EngineView

EXPECTED_OUTPUT_TOKENS: Final = 256
"""Where the request does not bound its output lower. Real conversation traces have a mean of about 340."""
FULL_KV: Final = 0.98
"""KV pressure counts up to here; a full cache is very expensive, not infinitely so."""
ADAPTER_SECONDS: Final = 0.2
"""For an engine that has to bring in a LoRA adapter first. An assumption: not measured on a GPU."""
SAME_NODE: Final = 0.5
OTHER_ZONE: Final = 2.0
"""A KV transfer within a node and between zones, against one within a zone. Assumptions: not measured."""

_NO_MATCH: Final[Mapping[str, int]] = {}


class RequestView(msgspec.Struct, frozen=True, kw_only=True):
    """What placement knows of a request."""

    prompt_tokens: int
    output_tokens: int = EXPECTED_OUTPUT_TOKENS
    transferable: bool = True
    """Whether KV blocks computed elsewhere can serve it."""
    match: Mapping[str, int] = _NO_MATCH
    """Tokens of its prompt that each engine holds already, weighted by their tiers, by engine name."""
    avoid: frozenset[str] = frozenset()
    """Engines that failed this request."""
    prefer: frozenset[str] = frozenset()
    """Engines of its session: they win near-ties."""
    adapter: str | None = None
    """LoRA adapter."""
    priority: int = 0
    """Higher ones are served first when requests wait."""
    ttft_seconds: float | None = None
    """Its own objective; None: that of the deployment."""

    def uncached_on(self, engine: EngineView) -> int:
        """Tokens of the prompt that the engine would have to compute."""
        return max(0, self.prompt_tokens - self.match.get(engine.name, 0)) if self.match else self.prompt_tokens


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What placement is told once."""

    disaggregated: bool
    local_prefill_tokens: int
    """Prompts with at most this many uncached tokens are computed by their decode engine."""
    max_running_per_engine: int
    max_prefill_backlog_seconds: float = float("inf")
    """A prefill engine with more work than this has no room: further requests wait in the router, in its order."""
    load_weight: float = 1.0
    cache_weight: float = 1.0
    cold_tokens: int | None = None
    """Prompts with at least this many uncached tokens are cold; None: prefill engines are not split."""
    cold_share: float = 0.5
    """Share of the prefill engines that cold prompts have."""
    split_seconds: float = 2.0
    """What the other pool must be faster by for a request to go there: the split delays nobody by more."""


class Pricing:
    """Costs of one request. Made for each placement; what does not depend on the engine is computed once."""

    __slots__ = ("_fresh", "_idle", "_model", "_request", "_settings", "_transfer")

    def __init__(self, request: RequestView, settings: Settings, model: EngineModel) -> None:
        self._request = request
        self._settings = settings
        self._model = model
        self._fresh = model.prefill_seconds(request.prompt_tokens)
        self._transfer = model.transfer_seconds(request.prompt_tokens)
        self._idle = request.output_tokens * model.step_seconds(1, request.prompt_tokens)

    def uncached(self, engine: EngineView) -> int:
        """Tokens that count as not held by the engine: what it holds counts by the cache weight."""
        prompt, match = self._request.prompt_tokens, self._request.match.get(engine.name)
        return max(0, prompt - int(self._settings.cache_weight * match)) if match else prompt

    def queue(self, engine: EngineView) -> float:
        """Until the engine begins with this prompt."""
        seconds = self._settings.load_weight * engine.prefill_backlog_seconds
        adapter, loaded = self._request.adapter, engine.adapters
        return seconds if adapter is None or loaded is None or adapter in loaded else seconds + ADAPTER_SECONDS

    def compute(self, engine: EngineView) -> float:
        """Prefill of what the engine does not hold."""
        uncached = self.uncached(engine)
        prompt = self._request.prompt_tokens
        return self._fresh if uncached == prompt else self._model.prefill_seconds(uncached, prompt - uncached)

    def transfer(self, decode: EngineView) -> float:
        """Moving the KV blocks that ``decode`` does not hold, within a zone."""
        uncached = self.uncached(decode)
        return self._transfer if uncached == self._request.prompt_tokens else self._model.transfer_seconds(uncached)

    def decode(self, engine: EngineView) -> float:
        """Output steps at the batch that the request would join, stretched by KV pressure.

        ``steps · step(B + 1, K + n) / (1 − pressure)``; what exceeds an idle engine's counts by the load weight.
        """
        model, request = self._model, self._request
        context = engine.context_tokens + request.prompt_tokens
        capacity = model.kv_capacity_tokens
        pressure = max(engine.kv_usage, context / capacity) if capacity else engine.kv_usage
        seconds = request.output_tokens * model.step_seconds(engine.running + 1, context) / (1 - min(pressure, FULL_KV))
        weight = self._settings.load_weight
        return seconds if weight == 1.0 else self._idle + weight * (seconds - self._idle)

    def load(self, decode_seconds: float) -> float:
        """The part of :meth:`decode` that is due to others."""
        return max(0.0, decode_seconds - self._idle)


def distance(prefill: EngineView, decode: EngineView) -> float:
    """How much longer a transfer takes than one within a zone; 1 where nothing is known."""
    if prefill.node and prefill.node == decode.node:
        return SAME_NODE
    return OTHER_ZONE if prefill.zone and decode.zone and prefill.zone != decode.zone else 1.0
