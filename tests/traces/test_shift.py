"""The load whose mix turns over."""

from __future__ import annotations

import random

from paceline.traces.shift import READING, WRITING, generate_shift


def test_the_first_half_reads_and_the_second_writes() -> None:
    trace = generate_shift(seconds=600.0, rng=random.Random(1))
    halves = [[one for one in trace.requests if (one.arrival_seconds < 300) is first] for first in (True, False)]
    for half, mix in zip(halves, (READING, WRITING), strict=True):
        assert abs(len(half) / 300 - mix.requests_per_second) < 0.4
        mean = sum(one.output_tokens for one in half) / len(half)
        assert abs(mean - mix.answer_tokens) < 0.1 * mix.answer_tokens
        assert all(2 / 3 * mix.prompt_tokens - 1 <= one.input_tokens <= 4 / 3 * mix.prompt_tokens + 1 for one in half)


def test_the_same_seed_gives_the_same_load_and_nothing_is_shared() -> None:
    one, other = (generate_shift(seconds=60.0, rng=random.Random(7)) for _ in range(2))
    assert one == other
    assert not any(request.blocks for request in one.requests)
