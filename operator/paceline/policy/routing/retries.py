"""How many retries a router may spend: a share of its requests, so that a broken fleet isn't hit twice as hard."""

from __future__ import annotations

from typing import Final

MAX_SAVED: Final = 100.0
"""Retries that a quiet time can save up."""


class RetryBudget:
    """Each request earns ``share`` of a retry; a retry costs one. Starts with ``saved`` retries."""

    __slots__ = ("_saved", "_share")

    def __init__(self, *, share: float = 0.2, saved: float = 20.0) -> None:
        self._share = share
        self._saved = min(saved, MAX_SAVED)

    @property
    def saved(self) -> float:
        """Retries that can be spent now."""
        return self._saved

    def earn(self) -> None:
        """A request arrived."""
        self._saved = min(MAX_SAVED, self._saved + self._share)

    def spend(self) -> bool:
        """Take one retry; False when there is none."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True
