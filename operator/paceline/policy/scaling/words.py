"""A decision in plain words, most important first: for the log, Events, the status and ``paceline explain``.

The reader is on call at night: what was done, why, what would have happened otherwise, and what was not done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from paceline.api.wire import Role
from paceline.policy.scaling.decision import Decision, Demand, Explanation, Limit
from paceline.policy.scaling.observation import Counts

MAX_NAMES: Final = 5
"""Engines that are named one by one."""

_LIMITS: Final = {
    Limit.TTFT: "the TTFT objective",
    Limit.ITL: "the ITL objective",
    Limit.KV_MEMORY: "KV memory",
    Limit.BATCH: "the largest batch",
    Limit.GPU_BUDGET: "the GPU budget",
    Limit.MIN_REPLICAS: "minReplicas",
    Limit.MAX_REPLICAS: "maxReplicas",
    Limit.IDLE: "idleness",
    Limit.HELD: "missing metrics",
}


def plain_words(decision: Decision) -> list[str]:
    """Sentences, at most two dozen."""
    why = decision.explanation
    if why.held_because is not None:
        return [_action(decision), f"Nothing is scaled because {why.held_because}.", *_absent(why)]
    if why.bound_by is Limit.IDLE:
        return [_action(decision), "No request has come for as long as the deployment may idle.", *_absent(why)]
    return [
        _action(decision),
        f"What bound the number of engines: {_LIMITS[why.bound_by]}.",
        *_seen(why),
        *_forecast(why),
        *_demands(why),
        *_roles(decision),
        *_otherwise(why),
        *_ceiling(decision),
        *(f"Not done: {one.action}, because {one.why}." for one in why.rejected),
        *_absent(why),
    ]


def _action(decision: Decision) -> str:
    parts = []
    for role in (Role.PREFILL, Role.DECODE, Role.BOTH):
        changing = [flip.engine for flip in decision.flips if flip.after is role]
        if changing:
            parts.append(f"change {_few(changing)} to {role}")
    started = sum(start.count for start in decision.starts)
    leaving = [drain.engine for drain in decision.drains]
    late = [name for name in leaving if name in decision.explanation.absent]
    if late and started >= len(late):
        parts.append(f"replace {_few(late)}")
        started -= len(late)
        leaving = [name for name in leaving if name not in late]
    if started:
        parts.append(f"start {_engines(started)}")
    if leaving:
        parts.append(f"remove {_few(leaving)}")
    if not parts:
        return f"Keep {_counts(decision.engines)}."
    text = ", ".join(parts)
    # What a change of roles alone leads to is known; what is aimed at once engines have come or gone may differ.
    aim = decision.engines if decision.starts or decision.drains else decision.roles
    return f"{text[0].upper()}{text[1:]}; the aim is {_counts(aim)}, {_counts(decision.before)} now."


def _seen(why: Explanation) -> list[str]:
    seen = why.seen
    if not seen.request_rate:
        return ["No request came in the demand window."]
    lines = [
        f"{seen.request_rate:.3g} requests/s; uncached prompt p50 {seen.uncached_p50:,} and p99 {seen.uncached_p99:,} "
        f"tokens, {seen.hit_rate:.0%} of prompt tokens cached, answers of {seen.output_mean:,.0f} tokens on average; "
        f"prefill alone keeps {seen.prefill_load:.1f} engines busy."
    ]
    if seen.backlog_seconds >= 1:
        lines.append(f"{seen.backlog_seconds:.0f} s of prefill work wait.")
    if seen.held:
        wait = "request waits" if seen.held == 1 else "requests wait"
        lines.append(f"{seen.held} {wait} for a place among the streams of the decode engines.")
    if seen.attainment is not None:
        lines.append(f"Of the latest requests {seen.attainment:.1%} met the objective.")
    if not 0.95 < seen.correction < 1.05:
        lines.append(f"Experience says that it takes {seen.correction:.2f} times the engines that the model asks for.")
    return lines


def _forecast(why: Explanation) -> list[str]:
    outlook = why.outlook
    if max(outlook.prefill_far, outlook.decode_far) < 1.01:
        return [f"No growth is forecast for the next {outlook.far_seconds:.0f} s."]
    source = "the season" if outlook.from_season else "the trend"
    return [
        f"Within {outlook.far_seconds:.0f} s {source} points to {outlook.prefill_far:.2f} times the prefill load and "
        f"{outlook.decode_far:.2f} times the decode load of the demand window."
    ]


def _demands(why: Explanation) -> list[str]:
    if not why.demands:
        return []
    return [f"Needed: {'; '.join(_demand(demand) for demand in why.demands)}."]


def _roles(decision: Decision) -> list[str]:
    """Roles may follow another need than numbers do: without it a change looks like a mistake."""
    if not decision.flips:
        return []
    return [f"Roles go by what comes now, waits and runs, which wants {_counts(decision.explanation.near)}."]


def _demand(demand: Demand) -> str:
    kind = "" if demand.role is Role.BOTH else f"{demand.role} "
    if demand.engines is None:
        return f"no number of {kind}engines meets {_LIMITS[demand.limit]}"
    return f"{_engines(demand.engines, kind)} for {_LIMITS[demand.limit]}"


def _otherwise(why: Explanation) -> list[str]:
    if why.attainment_if_held is None or why.attainment_planned is None:
        return []
    return [
        f"Of the requests that can meet the TTFT {why.attainment_if_held:.1%} would if prefill stayed as it is, "
        f"{why.attainment_planned:.1%} with this."
    ]


def _ceiling(decision: Decision) -> list[str]:
    lines = []
    feasible = decision.explanation.feasible
    if feasible < 0.995:
        lines.append(f"{1 - feasible:.1%} of requests have prompts too long for the TTFT on any number of engines.")
    if decision.shed > 0:
        lines.append(f"{decision.shed:.0%} of the prefill work is more than the allowed engines can ever do: shed it.")
    return lines


def _absent(why: Explanation) -> list[str]:
    if not why.absent:
        return []
    return [f"Not ready by the start deadline: {_few(why.absent)}."]


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MAX_NAMES])
    return shown if len(names) <= MAX_NAMES else f"{shown} and {len(names) - MAX_NAMES} more"


def _counts(counts: Counts) -> str:
    if counts.both and not (counts.prefill or counts.decode):
        return _engines(counts.both)
    text = f"{counts.prefill} prefill and {counts.decode} decode"
    return f"{text} and {counts.both} of both" if counts.both else text


def _engines(count: int, kind: str = "") -> str:
    return f"{count} {kind}engine" if count == 1 else f"{count} {kind}engines"
