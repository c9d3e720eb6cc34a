"""What it would cost to serve one request on one engine, in seconds through the engine model, term by term.

Used by :mod:`paceline.policy.routing.placement` to choose, and by the router to explain a choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """Costs of one request. Made for each placement; what many engines have in common is computed once."""

    __slots__ = ("_compute", "_idle", "_match", "_model", "_request", "_settings", "_transfer")

    def __init__(self, request: RequestView, settings: Settings, model: EngineModel) -> None:
        prompt, weight = request.prompt_tokens, settings.cache_weight
        self._request = request
        self._settings = settings
        self._model = model
        self._match = request.match if weight == 1.0 else {n: int(weight * held) for n, held in request.match.items()}
        self._compute = {0: model.prefill_seconds(prompt)}
        """By tokens held."""
        self._transfer = {0: model.transfer_seconds(prompt)}
        """By tokens held."""
        self._idle = request.output_tokens * model.step_seconds(1, prompt)

    def uncached(self, engine: EngineView) -> int:
        """Tokens that count as not held by the engine: what it holds counts by the cache weight."""
        return max(0, self._request.prompt_tokens - self._match.get(engine.name, 0))

    def queue(self, engine: EngineView) -> float:
        """Until the engine begins with this prompt."""
        seconds = self._settings.load_weight * engine.prefill_backlog_seconds
        adapter, loaded = self._request.adapter, engine.adapters
        return seconds if adapter is None or loaded is None or adapter in loaded else seconds + ADAPTER_SECONDS

    def compute(self, engine: EngineView) -> float:
        """Prefill of what the engine does not hold."""
        held = self._match.get(engine.name, 0)
        seconds = self._compute.get(held)
        if seconds is None:
            uncached = self.uncached(engine)
            seconds = self._model.prefill_seconds(uncached, self._request.prompt_tokens - uncached)
            self._compute[held] = seconds
        return seconds

    def waits(self, engines: Sequence[EngineView]) -> list[float]:
        """:meth:`queue` + :meth:`compute` of each: until it has the prompt computed."""
        if self._request.adapter is not None:
            return [self.queue(engine) + self.compute(engine) for engine in engines]
        match, load, times, compute = self._match.get, self._settings.load_weight, self._compute.get, self.compute
        return [
            load * engine.prefill_backlog_seconds + (times(match(engine.name, 0)) or compute(engine))
            for engine in engines
        ]

    def transfer(self, decode: EngineView) -> float:
        """Moving the KV blocks that ``decode`` does not hold, within a zone."""
        held = self._match.get(decode.name, 0)
        seconds = self._transfer.get(held)
        if seconds is None:
            seconds = self._transfer[held] = self._model.transfer_seconds(self.uncached(decode))
        return seconds

    def decode(self, engine: EngineView) -> float:
        """Output steps at the batch that the request would join, stretched by KV pressure.

        ``steps · step(B + 1, K + n) / (1 − pressure)``; what exceeds an idle engine's counts by the load weight.
        """
        model, request = self._model, self._request
        context = engine.context_tokens + request.prompt_tokens
        capacity, pressure = model.kv_capacity_tokens, engine.kv_usage
        if capacity and context > pressure * capacity:
            pressure = context / capacity
        if pressure > FULL_KV:
            pressure = FULL_KV
        seconds = request.output_tokens * model.step_seconds(engine.running + 1, context) / (1 - pressure)
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
