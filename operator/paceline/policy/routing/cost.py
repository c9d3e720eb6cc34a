"""What it would cost to serve one request on one engine, in seconds through the engine model, term by term.

Used by :mod:`paceline.policy.routing.placement` to choose, and by the router to explain a choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from paceline.policy.routing.crowding import Crowding
from paceline.policy.routing.fleet import EngineModel, EngineView

EXPECTED_OUTPUT_TOKENS: Final = 256
"""Where the request does not bound its output lower. Real conversation traces have a mean of about 340."""
FULL_KV: Final = 0.98
"""KV pressure counts up to here; a full cache is very expensive, not infinitely so."""
WASTE_WEIGHT: Final = 8.0
"""Seconds spent on computing again what another engine holds count by this much more than the request's own wait: they
are taken from everybody behind it, and the copy takes the place of something else. On a public conversation trace 8 in
place of 3 brings up to a point of cache hits and costs up to 0.7 points of goodput (docs/decisions/0022).
"""
SPAN: Final = 1_000_000
"""Between two points of a linear model: wide, so that nothing is lost in rounding."""
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
    tenant: str = ""
    """Whose turn it takes when requests wait."""
    weight: int = 1
    """Of its tenant's share."""
    crowds: bool = False
    """Whether it gets a place among streams even where that makes them miss their objective: it has waited too long for
    one, or is in the middle of its answer.
    """

    @property
    def context_tokens(self) -> int:
        """Its mean context while it decodes, as far as that is known."""
        return self.prompt_tokens + self.output_tokens // 2

    def uncached_on(self, engine: EngineView) -> int:
        """Tokens of the prompt that the engine would have to compute."""
        return max(0, self.prompt_tokens - self.match.get(engine.name, 0)) if self.match else self.prompt_tokens


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What placement is told once."""

    disaggregated: bool
    local_prefill_tokens: int
    """Prompts with at most this many uncached tokens are computed by their decode engine."""
    max_running_per_engine: int
    prefill_ahead_seconds: float = float("inf")
    """A prefill engine gets the next prompt so long before it is done with what it has. What comes earlier waits in the
    router, in its order.
    """
    crowding: Crowding | None = None
    """How many streams a decode engine may have by its steps; None: by their number alone."""
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

    __slots__ = (
        "_base",
        "_by_context",
        "_by_sequence",
        "_compute",
        "_idle",
        "_least",
        "_match",
        "_model",
        "_request",
        "_settings",
        "_transfer",
        "_weighted",
    )

    def __init__(self, request: RequestView, settings: Settings, model: EngineModel) -> None:
        prompt, weight = request.prompt_tokens, settings.cache_weight
        self._request = request
        self._settings = settings
        self._model = model
        self._match = request.match if weight == 1.0 else {n: int(weight * held) for n, held in request.match.items()}
        self._compute = {0: model.prefill_seconds(prompt)}
        """By tokens held, as the next two."""
        self._weighted: dict[int, float] = {}
        self._transfer = {0: model.transfer_seconds(prompt)}
        most = max(self._match.values(), default=0)
        self._least = self._seconds(most)
        """To compute the prompt where most of it is held."""
        # A step is linear in sequences and context, so three of them say what all cost.
        self._base = model.step_seconds(1, 0)
        self._by_sequence = (model.step_seconds(1 + SPAN, 0) - self._base) / SPAN
        self._by_context = (model.step_seconds(1, SPAN) - self._base) / SPAN
        self._idle = request.output_tokens * (self._base + self._by_context * prompt)

    @property
    def prompt_tokens(self) -> int:
        """Of the request."""
        return self._request.prompt_tokens

    @property
    def holds(self) -> Callable[[str, int], int]:
        """Tokens of the prompt that count as held by the engine of a name; the other argument where it holds none."""
        return self._match.get

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
        return self._seconds(self._match.get(engine.name, 0))

    def waste(self, engine: EngineView) -> float:
        """Charge for computing what another engine holds: ``WASTE_WEIGHT`` times the seconds that it could save."""
        return WASTE_WEIGHT * max(0.0, self.compute(engine) - self._least)

    def prompt(self, engine: EngineView) -> float:
        """Cost of the prompt there: :meth:`queue` + :meth:`compute` + :meth:`waste`."""
        return self.queue(engine) + self.compute(engine) + self.waste(engine)

    def prompts(self, engines: Sequence[EngineView]) -> list[float]:
        """:meth:`prompt` of each."""
        if self._request.adapter is not None:
            return [self.prompt(engine) for engine in engines]
        match, load, known, price = self._match.get, self._settings.load_weight, self._weighted.get, self._price
        return [
            load * engine.prefill_backlog_seconds + (known(match(engine.name, 0)) or price(engine))
            for engine in engines
        ]

    def _price(self, engine: EngineView) -> float:
        price = self._weighted[self._match.get(engine.name, 0)] = self.compute(engine) + self.waste(engine)
        return price

    def _seconds(self, held: int) -> float:
        seconds = self._compute.get(held)
        if seconds is None:
            prompt = self._request.prompt_tokens
            uncached = max(0, prompt - held)
            seconds = self._compute[held] = self._model.prefill_seconds(uncached, prompt - uncached)
        return seconds

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
        return self.decodes((engine,))[0]

    def decodes(self, engines: Sequence[EngineView]) -> list[float]:
        """:meth:`decode` of each."""
        prompt, output, capacity = (
            self._request.prompt_tokens,
            self._request.output_tokens,
            self._model.kv_capacity_tokens,
        )
        base, by_sequence, by_context = output * self._base, output * self._by_sequence, output * self._by_context
        base += by_context * prompt
        a_token = 1 / capacity if capacity else 0.0
        own = a_token * prompt
        result: list[float] = []
        append = result.append
        for engine in engines:
            context = engine.context_tokens
            pressure = own + a_token * context
            usage = engine.kv_usage
            if usage > pressure:
                pressure = usage
            if pressure > FULL_KV:
                pressure = FULL_KV
            append((base + by_sequence * engine.running + by_context * context) / (1 - pressure))
        weight, idle = self._settings.load_weight, self._idle
        return result if weight == 1.0 else [idle + weight * (seconds - idle) for seconds in result]

    def load(self, decode_seconds: float) -> float:
        """The part of :meth:`decode` that is due to others."""
        return max(0.0, decode_seconds - self._idle)


def distance(prefill: EngineView, decode: EngineView) -> float:
    """How much longer a transfer takes than one within a zone; 1 where nothing is known."""
    if prefill.node and prefill.node == decode.node:
        return SAME_NODE
    return OTHER_ZONE if prefill.zone and decode.zone and prefill.zone != decode.zone else 1.0
