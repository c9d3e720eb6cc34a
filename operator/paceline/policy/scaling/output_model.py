"""How long answers will be: E[output | prompt length], from recent completions.

Decode is sized from arrivals and this, not from completions: after a shift of the mix completions still describe the
old one. Completions fade with a half-life, and sooner where newer ones say enough: when answers change their length, a
bucket is believed again as soon as some dozens of the new kind have ended. Buckets with few of them lean on the mean of
all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from paceline.policy.scaling.observation import CompletionInterval, OutputBucket

HALF_LIFE_SECONDS: Final = 300.0
HALF_LIFE_COMPLETIONS: Final = 25.0
"""In one bucket. The mean of the hundred and more that count then is within a tenth, with lengths that vary as much as
their mean.
"""
PRIOR_OUTPUT_TOKENS: Final = 256.0
"""Assumed of answers before the first completion."""
PRIOR_WEIGHT: Final = 10.0
"""Completions that a bucket needs to count as much as the mean of all."""
MIN_WEIGHT: Final = 0.01
"""Buckets that have faded below this are forgotten."""


@dataclass(frozen=True, slots=True)
class OutputModel:
    """Expected output tokens by prompt length, in buckets of a doubling."""

    mean: float
    by_bucket: dict[int, float]

    @classmethod
    def of(cls, buckets: Sequence[OutputBucket]) -> OutputModel:
        """From what is remembered."""
        weight = math.fsum(bucket.weight for bucket in buckets)
        tokens = math.fsum(bucket.tokens for bucket in buckets)
        mean = (tokens + PRIOR_WEIGHT * PRIOR_OUTPUT_TOKENS) / (weight + PRIOR_WEIGHT)
        return cls(
            mean=mean,
            by_bucket={
                bucket.bucket: (bucket.tokens + PRIOR_WEIGHT * mean) / (bucket.weight + PRIOR_WEIGHT)
                for bucket in buckets
            },
        )

    def expected(self, prompt_tokens: int) -> float:
        """Output tokens of a request with this prompt, at least 1."""
        return max(1.0, self.by_bucket.get(_bucket(prompt_tokens), self.mean))


def remember(
    buckets: Sequence[OutputBucket], intervals: Sequence[CompletionInterval], *, after: float | None, until: float
) -> tuple[OutputBucket, ...]:
    """``buckets`` with the intervals that end after ``after``, both faded to ``until``. None: nothing was seen yet."""
    fading = 1.0 if after is None else _fading(until - after)
    sums = {bucket.bucket: (bucket.weight * fading, bucket.tokens * fading) for bucket in buckets}
    for interval in intervals:
        if after is not None and interval.end <= after:
            continue
        share = _fading(until - interval.end)
        for cell in interval.cells:
            weight, tokens = sums.get(_bucket(cell.prompt), (0.0, 0.0))
            kept = 0.5 ** (cell.count / HALF_LIFE_COMPLETIONS)
            sums[_bucket(cell.prompt)] = (weight * kept + cell.count * share, tokens * kept + cell.outputs * share)
    return tuple(
        OutputBucket(bucket=bucket, weight=weight, tokens=tokens)
        for bucket, (weight, tokens) in sorted(sums.items())
        if weight >= MIN_WEIGHT
    )


def _bucket(prompt_tokens: int) -> int:
    return max(0, prompt_tokens).bit_length()


def _fading(seconds: float) -> float:
    return float(0.5 ** (max(0.0, seconds) / HALF_LIFE_SECONDS))
