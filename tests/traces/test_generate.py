"""The generated conversation load: reproducible, of the asked rate, and consistent as a trace."""

import itertools
import random
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.errors import ConfigError
from paceline.traces.generate import BLOCK_SIZE, ConversationShape, generate_conversations


def generate(seed: int = 1, seconds: float = 120, **shape: float) -> tuple:
    return generate_conversations(ConversationShape(**shape), seconds=seconds, rng=random.Random(seed)).requests


def test_the_same_seed_gives_the_same_load_and_another_seed_another() -> None:
    assert generate(1) == generate(1)
    assert generate(1) != generate(2)


@given(seed=st.integers(0, 10_000), max_tokens=st.integers(8 * BLOCK_SIZE, 40_000))
def test_every_request_is_within_the_window_and_the_models_length_and_its_blocks_fit_its_prompt(
    seed: int, max_tokens: int
) -> None:
    shape = ConversationShape(requests_per_second=5).fitted(max_tokens)
    requests = generate_conversations(shape, seconds=20, rng=random.Random(seed)).requests
    for request in requests:
        assert 0 <= request.arrival_seconds < 20
        assert request.input_tokens >= 1
        assert request.output_tokens >= 1
        assert request.input_tokens + request.output_tokens <= max_tokens
        assert len(request.blocks) == -(-request.input_tokens // BLOCK_SIZE)
    arrivals = [request.arrival_seconds for request in requests]
    assert arrivals == sorted(arrivals)


def test_a_turn_shares_its_whole_history_with_the_next_one() -> None:
    sessions = defaultdict(list)
    for request in generate(seconds=300):
        sessions[request.session].append(request)
    pairs = [(a, b) for turns in sessions.values() for a, b in itertools.pairwise(turns)]
    assert len(pairs) > 50
    for earlier, later in pairs:
        assert later.input_tokens > earlier.input_tokens + earlier.output_tokens
        assert later.blocks[: len(earlier.blocks)] == earlier.blocks


def test_conversations_share_only_system_prompts() -> None:
    system_blocks = 8 * 1024 // BLOCK_SIZE
    owner: dict[int, str | None] = {}
    for request in generate(seconds=300):
        for block in request.blocks:
            if block >= system_blocks:
                assert owner.setdefault(block, request.session) == request.session
        assert request.blocks[0] < system_blocks


def test_the_load_has_the_asked_rate_from_its_first_to_its_last_quarter() -> None:
    requests = generate(seconds=4000, requests_per_second=4)
    for quarter in range(4):
        count = sum(quarter * 1000 <= request.arrival_seconds < (quarter + 1) * 1000 for request in requests)
        # Long conversations are ended by the length limit, so the rate stays a little below what was asked.
        assert 3000 < count < 4300


def test_a_model_too_short_for_a_conversation_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 512 tokens; this one has 100"):
        ConversationShape().fitted(100)


def test_a_load_that_would_be_empty_or_endless_is_refused() -> None:
    with pytest.raises(ConfigError, match="ask for more time"):
        generate(seconds=0.001, requests_per_second=0.001)
    with pytest.raises(ConfigError, match="too many to generate"):
        generate(seconds=1e9)
