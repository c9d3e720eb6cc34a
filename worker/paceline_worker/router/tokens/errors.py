"""Why a prompt has no tokens here. Raised inside this package; only :class:`PromptTooLong` leaves it."""

from __future__ import annotations

from enum import StrEnum

from paceline.errors import PacelineError


class Outcome(StrEnum):
    """What became of one prompt; the label of a counter."""

    OK = "ok"
    TOO_LONG = "too_long"
    """Longer than the model: no engine would take it."""
    MISSING = "missing"
    """No tokenizer is configured, or it could not be loaded."""
    UNSUPPORTED = "unsupported"
    """The engine may have tokens for it, but they don't follow from what the router knows: images, say."""
    REFUSED = "refused"
    """The template raised, or the messages are not what an engine accepts: it will refuse them too."""
    SLOW = "slow"
    """The template took longer than it may."""
    PAUSED = "paused"
    """Not tried, because the template was too slow a moment ago."""
    BUSY = "busy"
    """Not tried, because too many prompts wait."""
    LATE = "late"
    """The answer did not come in time."""
    CANCELLED = "cancelled"
    """The client went away."""
    FAILED = "failed"
    """A defect; the log has it."""


class NoTokens(PacelineError):
    """The prompt's tokens are not to be had; routing goes by its text."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


class PromptTooLong(PacelineError):
    """The prompt alone exceeds the model's length: every engine would refuse it."""

    def __init__(self, tokens: int, limit: int, *, at_least: bool = False) -> None:
        count = f"at least {tokens}" if at_least else str(tokens)
        super().__init__(f"The prompt has {count} tokens; the model's length is {limit}. Shorten the prompt.")
        self.tokens = tokens
        """Counted, or a lower bound."""
        self.limit = limit
