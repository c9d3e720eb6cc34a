"""What the search found, in sentences: what to run, whether disaggregation pays, how sure that is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from paceline.api.v1alpha1 import ModelDeployment, PoolMode
from paceline.planning.confidence import Confidence
from paceline.planning.fleets import Fleet
from paceline.planning.search import Plan

NOISE: Final = 0.05
"""Costs that differ by less than this are called equal: seeds and windows move them as much."""


def verdict(plan: Plan) -> str:
    """What to run."""
    best = plan.best
    if best is None:
        closest = max(plan.fleets, key=lambda fleet: fleet.attained, default=None)
        seen = (
            ""
            if closest is None
            else f" The closest was {describe(closest)}, which attains {_percent(closest.attained)}."
        )
        return (
            f"Nothing within the GPU budget meets the objective for {_percent(plan.objective.target)} of the requests."
            f"{seen} Raise --max-gpus, or ask less of the objective."
        )
    return f"Cheapest that meets the objective: {describe(best)}, {best.gpu_hours:.3g} GPU-hours on this trace."


def describe(fleet: Fleet) -> str:
    """A fleet in a few words."""
    mode = "doing both" if fleet.mode is PoolMode.AGGREGATED else "prefill + decode"
    noun = "engine" if fleet.engines == "1" else "engines"
    what = f"{fleet.engines} {noun} {mode}, TP{fleet.option.tensor}"
    if fleet.scaled:
        what += ", sized as it goes"
    return f"{what} ({fleet.tweaks})" if str(fleet.tweaks) else what


def disaggregation(plan: Plan) -> str:
    """Whether it pays to have prefill and decode on different engines."""
    apart, both = plan.by_mode.get(PoolMode.DISAGGREGATED), plan.by_mode.get(PoolMode.AGGREGATED)
    if apart is None and both is None:
        return "Neither prefill and decode on the same engines nor apart meets the objective."
    if apart is None or both is None:
        only, other = ("on the same engines", "apart") if apart is None else ("apart", "on the same engines")
        pays = "does not pay here" if apart is None else "pays here"
        return f"Disaggregation {pays}: only with prefill and decode {only} is the objective met, not {other}."
    costs = f"{apart.gpu_hours:.3g} GPU-hours apart against {both.gpu_hours:.3g} together"
    if apart.gpu_hours < (1 - NOISE) * both.gpu_hours:
        return f"Disaggregation pays here: {costs}."
    if apart.gpu_hours <= (1 + NOISE) * both.gpu_hours:
        return f"Disaggregation makes no difference here ({costs}), so the simpler way of the two will do."
    return f"Disaggregation does not pay here: {costs}."


def scaling(plan: Plan) -> str | None:
    """What it brings to size the fleet while it runs; None if that was not tried."""
    tried = [fleet for fleet in plan.fleets if fleet.scaled]
    if not tried:
        return None
    scaled = min(tried, key=lambda fleet: (not fleet.good, fleet.gpu_hours))
    fixed = plan.by_mode_fixed.get(scaled.mode)
    before = "" if fixed is None else f", the best fixed fleet of its mode {fixed.gpu_hours:.3g}"
    return (
        f"With Paceline in charge, {describe(scaled)}, it takes {scaled.gpu_hours:.3g} GPU-hours{before}; "
        f"{_percent(scaled.attained)} attained."
    )


def sureness(plan: Plan, fleet: Fleet, sure: Confidence) -> Iterator[str]:
    """How sure the recommendation is, one sentence at a time."""
    option = fleet.option
    ceiling = plan.guess_of(option).ceiling
    if ceiling < 1:
        higher = [one for one in plan.guesses if not one.problem and one.ceiling > ceiling + 0.005]
        others = "".join(f" TP{one.option.tensor} leaves {_percent(1 - one.ceiling)}." for one in higher)
        yield (
            f"{_percent(1 - ceiling)} of the requests are so long that an idle engine of this layout misses the TTFT "
            f"objective; they count as load, not as misses.{others}"
        )
    yield (
        f"Windows of this trace put together anew attain between {_percent(sure.low)} and {_percent(sure.high)} in 90% "
        f"of the draws; {_percent(sure.holds)} of them meet the target of {_percent(plan.objective.target)}."
    )
    if sure.seeds:
        shares, hours = zip(*sure.seeds, (fleet.attained, fleet.gpu_hours), strict=True)
        yield (
            f"With other pod start times it attains {_percent(min(shares))} to {_percent(max(shares))} at "
            f"{min(hours):.3g} to {max(hours):.3g} GPU-hours."
        )
    yield f"Engine times: {option.profile.provenance}."
    if sure.slower is None:
        yield f"If engines are {_percent(sure.error)} slower, no fixed fleet of this layout meets the objective."
    else:
        yield (
            f"If engines are {_percent(sure.error)} slower, which such a profile can be off by, the smallest fixed "
            f"fleet of this layout is {describe(sure.slower)}: {sure.slower.gpu_hours:.3g} GPU-hours."
        )
    if sure.longest_share > 0.5:
        yield (
            f"The longest request fills {_percent(sure.longest_share)} of an engine's KV cache: few profiles are "
            "measured that far out."
        )


def change_of_mode(md: ModelDeployment, fleet: Fleet) -> str | None:
    """What to know before applying it; None if nothing stands against it."""
    if md.spec.pools.mode is fleet.mode:
        return None
    return (
        f"spec.pools.mode of a ModelDeployment can't be changed ({md.spec.pools.mode} to {fleet.mode}): apply it under "
        "another name, or delete the old one first."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%".replace(".0%", "%")
