"""What a fuzz target is, and what counts as a failure of it. Every target module makes some; ``runner`` runs them."""

from __future__ import annotations

import random
from typing import Protocol


class Found(Exception):
    """Something that must not happen has happened. The message says what."""


class Target(Protocol):
    """A part of the program that takes in what comes from outside."""

    name: str
    share: int
    """Of all inputs, beside the shares of the other targets."""

    def make(self, rng: random.Random) -> bytes:
        """One input."""
        ...

    def check(self, data: bytes) -> None:
        """Feed one input. Raises whatever is not an answer to a bad input."""
        ...

    def finish(self) -> None:
        """After the last input: what must still work works, and what was opened is closed."""
        ...


class Plain:
    """A target that holds nothing open."""

    name = ""
    share = 1

    def finish(self) -> None:
        """See :class:`Target`."""
