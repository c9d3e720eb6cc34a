"""Which engines a request runs on: the decode engine first, then whether and where another engine prefills for it.

Costs are seconds through the engine model, the lowest wins, and near-ties are broken by power of two choices, so that
replicas of the router that see the same loads don't all send to the same engine. What counts as near is a share of the
LOAD, which is seen a second late; a prefix that an engine holds is known exactly, and never traded for a coin toss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from operator import add
from typing import Final

import msgspec

from paceline.api.wire import Role
from paceline.policy.routing.cost import Pricing, RequestView, Settings, distance
from paceline.policy.routing.crowding import Crowding
from paceline.policy.routing.fleet import EngineModel, EngineView

NEAR_TIE: Final = 0.05
"""Costs that differ by less than this share of the load say nothing: loads are seen a second late."""
LARGEST_LOCAL_PREFILL: Final = 4096
"""No prompt longer than this is kept local by default, however slow transfers are: it would stall the batch."""
KEPT_FREE: Final = 1 / 8
"""Of the requests that an engine may run, for those whose priority is not below 0."""
EQUAL: Final = 1e-9
"""Seconds; sums of floats differ by less."""
INFINITE: Final = float("inf")
_PREFILL: Final = Role.PREFILL
_DECODE: Final = Role.DECODE
"""An attribute of an enum costs as much as the rest of a comparison, and these are made for each engine."""


class Prefill(StrEnum):
    """Where the prompt is computed, and why there."""

    REMOTE = "remote"
    STREAMS_FIRST = "streams-first"
    """Remote although it is short: the streams of its decode engine are owed steps without prompts."""
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


class Placement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The answer, with what it rests on."""

    decode: EngineView
    prefill: EngineView | None
    """None: the decode engine computes the prompt."""
    reason: Prefill
    decode_seconds: float
    """Cost of the decode engine: expected time of this request there, its prompt included."""
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
    """Whether any engine could take one more request, if it were a short one."""
    roomy = _decode_candidates(engines, settings, frozenset(), settings.max_running_per_engine)
    return bool(uncrowded(roomy, 0, settings.crowding))


def prefill_room_in(engines: Sequence[EngineView], settings: Settings) -> float:
    """Seconds until a prefill engine has room for one more prompt, if none is done early. 0 when one has room, or when
    there is none to wait for.
    """
    waits = [engine.prefill_backlog_seconds for engine in engines if engine.usable and engine.role is not _DECODE]
    return max(0.0, min(waits, default=0.0) - settings.prefill_ahead_seconds)


def choose(
    request: RequestView, engines: Sequence[EngineView], settings: Settings, model: EngineModel, random: float
) -> Placement | None:
    """Place one request. ``random`` is uniform in [0, 1). None: no usable engine has room.

    Engines that failed the request are avoided while there are others.
    """
    candidates = _decode_candidates(engines, settings, request.avoid, running_limit(request.priority, settings))
    if not (request.crowds or request.avoid):  # who has failed elsewhere has waited enough
        candidates = uncrowded(candidates, request.context_tokens, settings.crowding)
    if not candidates:
        return None
    pricing = Pricing(request, settings, model)
    helpers: list[EngineView] = []
    if settings.disaggregated and request.transferable:
        helpers = [engine for engine in engines if engine.usable and engine.role is not _DECODE]
        if request.avoid:
            helpers = [engine for engine in helpers if engine.name not in request.avoid]
    waits = _waits(helpers, pricing, settings)
    steps = pricing.decodes(candidates)
    prompts = _prompt_seconds(candidates, _soonest(helpers, waits), pricing, settings)
    costs = list(map(add, steps, prompts))
    best = _pick(candidates, costs, lambda index: pricing.load(steps[index]), request.prefer, random)
    decode = candidates[best]
    prefill, reason, seconds = _place_prefill(request, decode, helpers, waits, pricing, settings, random)
    return Placement(
        decode=decode,
        prefill=prefill,
        reason=reason,
        decode_seconds=costs[best],
        prefill_seconds=seconds,
        candidates=len(candidates),
    )


def running_limit(priority: int, settings: Settings) -> int:
    """Requests that may run on an engine when one of this priority comes to it: work that is less than ordinary leaves
    a part of each engine free, so that ordinary requests never wait for it to end.
    """
    most = settings.max_running_per_engine
    return most if priority >= 0 else max(1, int(most * (1 - KEPT_FREE)))


def uncrowded(engines: list[EngineView], context_tokens: int, limit: Crowding | None) -> list[EngineView]:
    """Those whose streams keep to their objective with one more of that context. What an engine of another role may
    have is not a matter of its streams alone.
    """
    if limit is None:
        return engines
    stream, token = limit.stream_seconds, limit.token_seconds
    # As limit.allows() for each with one more: a call costs as much as all the rest.
    room = limit.room_seconds - stream - context_tokens * token
    return [
        engine
        for engine in engines
        if (running := engine.running) * stream + engine.context_tokens * token <= room
        or not running
        or engine.role is not _DECODE
    ]


def _decode_candidates(
    engines: Sequence[EngineView], settings: Settings, avoid: frozenset[str], limit: int
) -> list[EngineView]:
    """Engines with room whose role it is; engines of any role when none has that role, for each can do it."""
    not_for_it = _PREFILL if settings.disaggregated else None
    roomy = [engine for engine in engines if engine.running < limit and engine.role is not not_for_it and engine.usable]
    if not roomy and not any(engine.usable and engine.role is not not_for_it for engine in engines):
        roomy = [engine for engine in engines if engine.running < limit and engine.usable]
    if avoid:
        return [engine for engine in roomy if engine.name not in avoid] or roomy
    return roomy


def _waits(helpers: Sequence[EngineView], pricing: Pricing, settings: Settings) -> list[float]:
    """What the prompt costs on each prefill engine, with the surcharge of the pool that is not its own."""
    waits = pricing.prompts(helpers)
    if settings.cold_tokens is None or len(helpers) < 2:
        return waits
    cold = min(map(pricing.uncached, helpers)) >= settings.cold_tokens
    # By name, so that all replicas of the router split alike.
    order = sorted(range(len(helpers)), key=lambda place: helpers[place].name)
    size = min(len(helpers) - 1, max(1, round(settings.cold_share * len(helpers))))
    for place in order[size:] if cold else order[:size]:
        waits[place] += settings.split_seconds
    return waits


def _soonest(helpers: Sequence[EngineView], waits: Sequence[float]) -> dict[str, float]:
    """The least of the waits for each revision."""
    revisions = {helper.revision for helper in helpers}
    if len(revisions) == 1:
        return dict.fromkeys(revisions, min(waits))
    soonest = dict.fromkeys(revisions, INFINITE)
    for helper, wait in zip(helpers, waits, strict=True):
        soonest[helper.revision] = min(wait, soonest[helper.revision])
    return soonest


def _prompt_seconds(
    engines: Sequence[EngineView], soonest: Mapping[str, float], pricing: Pricing, settings: Settings
) -> list[float]:
    """What it costs to bring the prompt to each decode engine, computed there or elsewhere."""
    if not soonest:
        return pricing.prompts(engines)
    longest_held = pricing.prompt_tokens - settings.local_prefill_tokens
    known: dict[tuple[str, int], float] = {}  # by revision and tokens held: few are different

    def bring(engine: EngineView, held: int) -> float:
        remote, short = soonest.get(engine.revision), held >= longest_held
        if remote is None or (short and not engine.owed_seconds):
            return pricing.prompt(engine)
        bringing = remote + pricing.transfer(engine)
        if short and engine.owed_seconds <= bringing:
            return pricing.prompt(engine)
        if engine.role is not _DECODE:
            return min(bringing, pricing.prompt(engine))
        if not short:  # of a short one it depends on what the streams there are owed
            known[engine.revision, held] = bringing  # whatever else there is to do there: it goes on meanwhile
        return bringing

    holds, find = pricing.holds, known.get
    return [
        find((engine.revision, held := holds(engine.name, 0))) or bring(engine, held)  # never free
        for engine in engines
    ]


def _place_prefill(
    request: RequestView,
    decode: EngineView,
    helpers: Sequence[EngineView],
    waits: Sequence[float],
    pricing: Pricing,
    settings: Settings,
    random: float,
) -> tuple[EngineView | None, Prefill, float]:
    """The engine that prefills for ``decode``, why, and the time until the prompt is there."""
    local = pricing.queue(decode) + pricing.compute(decode)
    if not settings.disaggregated:
        return None, Prefill.NOT_DISAGGREGATED, local
    if not request.transferable:
        return None, Prefill.UNSUITED, local
    short = pricing.uncached(decode) <= settings.local_prefill_tokens
    if short and not decode.owed_seconds:
        return None, Prefill.SHORT, local
    transfer, revision = pricing.transfer(decode), decode.revision
    able = [place for place, one in enumerate(helpers) if one.revision == revision and one is not decode]
    if not able:
        return None, Prefill.SHORT if short else Prefill.NO_ENGINE, local
    candidates = [helpers[place] for place in able]
    if decode.node or decode.zone:
        costs = [waits[place] + transfer * distance(helpers[place], decode) for place in able]
    else:
        costs = [waits[place] + transfer for place in able]
    best = _pick(candidates, costs, lambda index: candidates[index].prefill_backlog_seconds, request.prefer, random)
    if short and decode.owed_seconds <= costs[best]:
        return None, Prefill.SHORT, local
    if decode.prefills and pricing.prompt(decode) <= costs[best]:
        return None, Prefill.CHEAPER_HERE, local
    helper = candidates[best]
    seconds = pricing.queue(helper) + pricing.compute(helper) + transfer * distance(helper, decode)
    return helper, Prefill.STREAMS_FIRST if short else Prefill.REMOTE, seconds


def _pick(
    engines: Sequence[EngineView],
    costs: Sequence[float],
    load: Callable[[int], float],
    prefer: frozenset[str],
    random: float,
) -> int:
    """Index of the lowest cost; of near-ties a preferred engine, else of two drawn at random the lower.

    ``load``: the part of the cost at an index that is due to load.
    """
    lowest = min(costs)
    limit = lowest + NEAR_TIE * load(costs.index(lowest)) + EQUAL
    near = [index for index, cost in enumerate(costs) if cost <= limit]
    if len(near) == 1:
        return near[0]
    if prefer:
        preferred = [index for index in near if engines[index].name in prefer]
        if preferred:
            return min(preferred, key=costs.__getitem__)
    # One number serves for both draws: which pair of different engines, out of all ordered pairs.
    first, rest = divmod(int(random * len(near) * (len(near) - 1)), len(near) - 1)
    second = rest if rest < first else rest + 1
    one, other = near[first], near[second]
    return one if costs[one] <= costs[other] else other
