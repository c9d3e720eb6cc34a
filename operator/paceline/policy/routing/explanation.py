"""A placement in numbers: what each engine holds of the prompt, what it would cost there and why, and what was chosen.

For the debug header and ``paceline explain``; the terms are those by which :mod:`paceline.policy.routing.placement`
chooses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from paceline.api.wire import Role
from paceline.policy.routing.cost import Pricing, RequestView, Settings, distance
from paceline.policy.routing.fleet import EngineModel, EngineView
from paceline.policy.routing.placement import Placement


class EngineTerms(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One engine. Times in milliseconds."""

    name: str
    role: Role
    usable: bool
    room: bool
    """For one more sequence."""
    matched_tokens: int
    """Tokens of the prompt that it holds, in whichever tier."""
    worth_tokens: int
    """The same, weighted by tier."""
    queue: float
    """Until it begins with this prompt."""
    compute: float
    """Prefill of the rest."""
    waste: float
    """Charge for computing again what another engine holds."""
    transfer: float | None
    """Moving the result to the chosen decode engine; None where that is the same engine, or nothing moves."""
    decode: float
    """All output steps in the batch that the request would join."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One decision."""

    prompt_tokens: int
    exact: bool
    """Whether prompt and matches are token-exact, not estimated from text."""
    output_tokens: int
    """Expected."""
    decode: str | None
    """The engine that answers; None when none has room."""
    prefill: str | None
    """The engine that computes the prompt for it; None: the decode engine does."""
    reason: str
    decode_cost: float | None = None
    """What the decode engine was chosen by: prompt and output. Milliseconds."""
    prefill_cost: float | None = None
    """Expected time until the prompt is computed and where it is needed. Milliseconds."""
    engines: list[EngineTerms]
    """The cheapest first; the chosen ones before all others."""
    engines_left_out: int = 0


def explain(
    request: RequestView,
    engines: Sequence[EngineView],
    settings: Settings,
    model: EngineModel,
    placement: Placement | None,
    *,
    held: Mapping[str, int],
    exact: bool,
    most: int,
) -> Explanation:
    """Write down a decision. ``held``: unweighted tokens by engine; ``most``: engines to list."""
    pricing = Pricing(request, settings, model)
    decode = None if placement is None else placement.decode
    prefill = None if placement is None else placement.prefill
    chosen = {engine.name for engine in (decode, prefill) if engine is not None}

    def terms(engine: EngineView) -> EngineTerms:
        moves = decode is not None and engine.prefills and engine.name != decode.name
        transfer = pricing.transfer(decode) * distance(engine, decode) if decode is not None and moves else None
        return EngineTerms(
            name=engine.name,
            role=engine.role,
            usable=engine.usable,
            room=engine.running < settings.max_running_per_engine,
            matched_tokens=held.get(engine.name, 0),
            worth_tokens=request.match.get(engine.name, 0),
            queue=_milliseconds(pricing.queue(engine)),
            compute=_milliseconds(pricing.compute(engine)),
            waste=_milliseconds(pricing.waste(engine)),
            transfer=None if transfer is None else _milliseconds(transfer),
            decode=_milliseconds(pricing.decode(engine)),
        )

    def rank(one: EngineTerms) -> tuple[bool, bool, float, str]:
        return one.name not in chosen, not one.usable, one.queue + one.compute + one.waste, one.name

    listed = sorted(map(terms, engines), key=rank)
    return Explanation(
        prompt_tokens=request.prompt_tokens,
        exact=exact,
        output_tokens=request.output_tokens,
        decode=None if decode is None else decode.name,
        prefill=None if prefill is None else prefill.name,
        reason="no-room" if placement is None else placement.reason.value,
        decode_cost=None if placement is None else _milliseconds(placement.decode_seconds),
        prefill_cost=None if placement is None else _milliseconds(placement.prefill_seconds),
        engines=listed[:most],
        engines_left_out=max(0, len(listed) - most),
    )


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 3)
