"""Which engines stand out among their siblings, as their routers have found: what the status and an Event say of them.

The routers judge and act; the operator only passes it on. Called where the planner looks at routers' pages anyway.
"""

from __future__ import annotations

from collections.abc import Iterable

from paceline.api.conditions import ConditionType, Finding, Reason
from paceline.api.v1alpha1 import ConditionStatus
from paceline.planner.source import Reading

NAMED_AT_MOST = 5
"""Engines that a message names."""


def wellness(reading: Reading, routers: Iterable[str]) -> Finding:
    """By the newest pages of ``routers``."""
    out: dict[str, str] = {}
    watched: dict[str, str] = {}
    pages = [reading.pages[name][-1] for name in sorted(routers) if reading.pages.get(name)]
    for page in pages:
        for name, gauges in page.engines.items():
            if gauges.stands_out:
                (out if gauges.suspended else watched)[name] = gauges.stands_out
    kind = ConditionType.ENGINES_WELL
    if not pages:
        return Finding(kind, ConditionStatus.UNKNOWN, Reason.NOT_OBSERVED_YET, "No router tells how its engines are.")
    if not out and not watched:
        return Finding(kind, ConditionStatus.TRUE, Reason.AS_DESIRED)
    said = []
    if out:
        said.append(f"No new work for now, because they stand out among their siblings: {_names(out)}.")
    kept = {name: reason for name, reason in watched.items() if name not in out}
    if kept:
        said.append(f"Stand out among their siblings and keep their work: {_names(kept)}.")
    return Finding(kind, ConditionStatus.FALSE, Reason.ENGINE_STANDS_OUT, " ".join(said))


def _names(engines: dict[str, str]) -> str:
    named = [f"{name} ({reason})" for name, reason in sorted(engines.items())]
    more = len(named) - NAMED_AT_MOST
    return ", ".join(named[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
