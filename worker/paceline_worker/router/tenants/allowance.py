"""Tokens a minute of one tenant: of prompts and outputs together, and of each apart. Accounts keep one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from paceline.api import wire
from paceline.policy.quota import TokenQuota

LIMITS: Final = ("tokens", "input_tokens", "output_tokens")
"""Names of the limits, in metrics."""
_WORDS: Final = {"tokens": "tokens", "input_tokens": "uncached prompt tokens", "output_tokens": "output tokens"}


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why a request must wait."""

    limit: str
    wait_seconds: int
    needed: int
    left: int
    per_minute: int

    def __str__(self) -> str:
        what = _WORDS[self.limit]
        return (
            f"This request needs about {self.needed} {what}, and you have {self.left} left of {self.per_minute} a "
            "minute here."
        )


class Allowance:
    """The quotas that a tenant has. Times are seconds on the caller's clock."""

    __slots__ = ("quotas",)

    def __init__(self, tenant: wire.Tenant, now: float) -> None:
        given = (tenant.tokens_per_minute, tenant.input_tokens_per_minute, tenant.output_tokens_per_minute)
        self.quotas = {
            limit: TokenQuota(per_minute, now)
            for limit, per_minute in zip(LIMITS, given, strict=True)
            if per_minute is not None
        }
        """By the name of the limit."""

    def shortage(self, uncached: int, output: int, now: float) -> Shortage | None:
        """The limit that has to be waited for longest; None when the request can be served now."""
        worst: Shortage | None = None
        for limit, quota in self.quotas.items():
            needed = _needed(limit, uncached, output)
            wait = quota.wait_seconds(needed, now)
            if wait > (0 if worst is None else worst.wait_seconds):
                worst = Shortage(limit, wait, needed, max(0, int(quota.level(now))), quota.per_minute)
        return worst

    def take(self, uncached: int, output: int, now: float) -> None:
        """Use them; fewer than 0 are given back."""
        for limit, quota in self.quotas.items():
            quota.take(_needed(limit, uncached, output), now)


def _needed(limit: str, uncached: int, output: int) -> int:
    if limit == "tokens":
        return uncached + output
    return uncached if limit == "input_tokens" else output
