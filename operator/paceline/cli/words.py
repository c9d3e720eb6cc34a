"""Small pieces of text that several commands print: counts, times, sentences. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

MINUTE: Final = 60
HOUR: Final = 3600
DAY: Final = 86_400


def counts_in_words(counts: Mapping[str, Any]) -> str:
    """``2 prefill + 3 decode``."""
    named = [f"{count} {role}" for role, count in counts.items() if count]
    return " + ".join(named) or "no engines"


def sentences(text: str) -> list[str]:
    """A text cut into its sentences."""
    parts = text.split(". ")
    return [part if part.endswith((".", "…")) else f"{part}." for part in parts if part]


def duration(seconds: float | None) -> str:
    """As kubectl writes ages: ``45s``, ``12m``, ``3h20m``, ``2d4h``; ``?`` where it is not known."""
    if seconds is None:
        return "?"
    whole = max(0, int(seconds))
    if whole < 2 * MINUTE:
        return f"{whole}s"
    if whole < 2 * HOUR:
        return f"{whole // MINUTE}m"
    if whole < 2 * DAY:
        return f"{whole // HOUR}h{whole % HOUR // MINUTE}m"
    return f"{whole // DAY}d{whole % DAY // HOUR}h"


def ago(seconds: float | None) -> str:
    """``12m ago``."""
    return "an unknown time ago" if seconds is None else f"{duration(seconds)} ago"
