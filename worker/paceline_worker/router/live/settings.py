"""Whether there is a live page, from the environment. Apart from the page: settings need not know what it draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from paceline.errors import ConfigError

PAGE_ENV: Final = "PACELINE_LIVE_PAGE"
DECISIONS_ENV: Final = "PACELINE_LIVE_DECISIONS"


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """How the page is served. ``decisions``: file in which the local runtime's planner says what it decides."""

    decisions: Path | None = None


def read_live_settings(environment: Mapping[str, str]) -> LiveSettings | None:
    """None where the page is off, which is the default. Raises ConfigError."""
    value = environment.get(PAGE_ENV, "off")
    if value not in {"on", "off"}:
        raise ConfigError(f"{PAGE_ENV}: must be on or off, not {value[:80]!r}.")
    if value == "off":
        return None
    decisions = environment.get(DECISIONS_ENV)
    return LiveSettings(Path(decisions) if decisions else None)
