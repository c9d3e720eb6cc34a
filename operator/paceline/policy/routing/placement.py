"""Which engines a request runs on: the decode engine first, then whether and where another engine prefills for it.

Costs are seconds through the engine model, the lowest wins, and near-ties are broken by power of two choices, so that
replicas of the router that see the same loads don't all send to the same engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from paceline.policy.routing.fleet import EngineModel, EngineView

EXPECTED_OUTPUT_TOKENS: Final = 256
"""Where the request does not bound its output lower. Real conversation traces have a mean of about 340."""
NEAR_TIE: Final = 0.05
"""Costs this close to the lowest, relatively, say nothing: loads are seen a second late."""
FULL_KV: Final = 0.98
"""KV pressure counts up to here; a full cache is very expensive, not infinitely so."""
LARGEST_LOCAL_PREFILL: Final = 4096
"""No prompt longer than this is kept local by default, however slow transfers are: it would stall the batch."""

_NO_MATCH: Final[Mapping[str, int]] = {}


class Prefill(StrEnum):
    """Where the prompt is computed, and why there."""

    REMOTE = "remote"
    NOT_DISAGGREGATED = "not-disaggregated"
    """The deployment has no prefill role."""
    UNSUITED = "unsuited"
    """KV transfer serves one sequence of one prompt; this request has more, or needs the prompt's own results."""
    SHORT = "short"
    """Not more uncached tokens than a transfer is worth."""
    NO_ENGINE = "no-engine"
    """No usable prefill engine of the same revision."""
    CHEAPER_HERE = "cheaper-here"
    """The decode engine serves both roles and would be done sooner."""


class RequestView(msgspec.Struct, frozen=True, kw_only=True):
    """What placement knows of a request."""

    prompt_tokens: int
    output_tokens: int = EXPECTED_OUTPUT_TOKENS
    transferable: bool = True
    """Whether KV blocks computed elsewhere can serve it."""
    match: Mapping[str, int] = _NO_MATCH
    """Tokens of its prompt that each engine holds already, by engine name; from the prefix index."""
    avoid: frozenset[str] = frozenset()
    """Engines that failed this request."""

    def uncached_on(self, engine: EngineView) -> int:
        """Tokens of the prompt that the engine would have to compute."""
        return max(0, self.prompt_tokens - self.match.get(engine.name, 0)) if self.match else self.prompt_tokens


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What placement is told once."""

    disaggregated: bool
    local_prefill_tokens: int
    """Prompts with at most this many uncached tokens are computed by their decode engine."""
    max_running_per_engine: int


class Placement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The answer, with what it rests on."""

    decode: EngineView
    prefill: EngineView | None
    """None: the decode engine computes the prompt."""
    reason: Prefill
    decode_seconds: float
    """Cost of the decode engine: expected time of this request there."""
    prefill_seconds: float
    """Cost of the prefill, wherever it runs: expected time until it is done."""
    candidates: int
    """Decode engines that had room."""


def default_local_prefill_tokens(model: EngineModel) -> int:
    """The longest prompt whose prefill keeps a decode batch waiting for less time than its KV blocks would travel."""
    low, high = 0, LARGEST_LOCAL_PREFILL
    base = model.prefill_seconds(1)
    while low < high:
        middle = (low + high + 1) // 2
        # The batch runs a step anyway, so only what the prompt adds to it counts.
        if model.prefill_seconds(middle) - base <= model.transfer_seconds(middle):
            low = middle
        else:
            high = middle - 1
    return low


def has_room(engines: Sequence[EngineView], settings: Settings) -> bool:
    """Whether any engine could take one more request."""
    return bool(_decode_candidates(engines, settings, frozenset()))


def choose(
    request: RequestView, engines: Sequence[EngineView], settings: Settings, model: EngineModel, random: float
) -> Placement | None:
    """Place one request. ``random`` is uniform in [0, 1). None: no usable engine has room.

    Engines that failed the request are avoided while there are others.
    """
    candidates = _decode_candidates(engines, settings, request.avoid)
    if not candidates:
        return None
    computes_prompt = not (settings.disaggregated and request.transferable)
    costs = [_decode_seconds(request, engine, model, computes_prompt=computes_prompt) for engine in candidates]
    best = _pick(costs, random)
    decode = candidates[best]
    local_seconds = decode.prefill_backlog_seconds + model.prefill_seconds(request.uncached_on(decode))
    prefill, reason, seconds = None, _why_local(request, decode, settings), local_seconds
    if reason is None:
        prefill, reason, seconds = _place_prefill(request, decode, engines, model, random, local_seconds)
    return Placement(
        decode=decode,
        prefill=prefill,
        reason=reason,
        decode_seconds=costs[best],
        prefill_seconds=seconds,
        candidates=len(candidates),
    )


def _decode_candidates(engines: Sequence[EngineView], settings: Settings, avoid: frozenset[str]) -> list[EngineView]:
    """Engines with room whose role it is; engines of any role when none has that role, for each can do it."""
    usable = [engine for engine in engines if engine.usable]
    if settings.disaggregated:
        usable = [engine for engine in usable if engine.decodes] or usable
    limit = settings.max_running_per_engine
    roomy = [engine for engine in usable if engine.running < limit]
    if avoid:
        return [engine for engine in roomy if engine.name not in avoid] or roomy
    return roomy


def _decode_seconds(request: RequestView, engine: EngineView, model: EngineModel, *, computes_prompt: bool) -> float:
    """Expected time of the request on an engine: output steps at the batch it would join, stretched by KV pressure.

    ``steps · step(B + 1, K + n) / (1 − pressure)``, plus the prefill backlog where the engine computes the prompt.
    """
    context = engine.context_tokens + request.prompt_tokens
    capacity = model.kv_capacity_tokens
    pressure = max(engine.kv_usage, context / capacity) if capacity else engine.kv_usage
    seconds = request.output_tokens * model.step_seconds(engine.running + 1, context) / (1 - min(pressure, FULL_KV))
    if computes_prompt:
        seconds += engine.prefill_backlog_seconds + model.prefill_seconds(request.uncached_on(engine))
    return seconds


def _why_local(request: RequestView, decode: EngineView, settings: Settings) -> Prefill | None:
    if not settings.disaggregated:
        return Prefill.NOT_DISAGGREGATED
    if not request.transferable:
        return Prefill.UNSUITED
    if request.uncached_on(decode) <= settings.local_prefill_tokens:
        return Prefill.SHORT
    return None


def _place_prefill(
    request: RequestView,
    decode: EngineView,
    engines: Sequence[EngineView],
    model: EngineModel,
    random: float,
    local_seconds: float,
) -> tuple[EngineView | None, Prefill, float]:
    """The engine that prefills for ``decode``, why, and the time until the prompt is there."""
    candidates = [
        engine
        for engine in engines
        if engine.usable
        and engine.prefills
        and engine.name != decode.name
        and engine.revision == decode.revision
        and engine.name not in request.avoid
    ]
    if not candidates:
        return None, Prefill.NO_ENGINE, local_seconds
    transfer = model.transfer_seconds(request.prompt_tokens)
    costs = [
        engine.prefill_backlog_seconds + model.prefill_seconds(request.uncached_on(engine)) + transfer
        for engine in candidates
    ]
    best = _pick(costs, random)
    if decode.prefills and local_seconds <= costs[best]:
        return None, Prefill.CHEAPER_HERE, local_seconds
    return candidates[best], Prefill.REMOTE, costs[best]


def _pick(costs: Sequence[float], random: float) -> int:
    """Index of the lowest cost; of two near-ties drawn at random, the lower."""
    lowest = min(costs)
    limit = lowest * (1 + NEAR_TIE)
    near = [index for index, cost in enumerate(costs) if cost <= limit]
    if len(near) == 1:
        return near[0]
    # One number serves for both draws: which pair of different engines, out of all ordered pairs.
    first, rest = divmod(int(random * len(near) * (len(near) - 1)), len(near) - 1)
    second = rest if rest < first else rest + 1
    one, other = near[first], near[second]
    return one if costs[one] <= costs[other] else other
