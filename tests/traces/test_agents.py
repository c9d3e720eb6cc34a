"""The generated agent load: reproducible, of the asked rate, with growing contexts, tool pauses and sub-agents."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.errors import ConfigError
from paceline.traces.agents import AgentShape, generate_agents
from paceline.traces.generate import BLOCK_SIZE
from paceline.traces.record import TraceRequest


def generate(seed: int = 1, seconds: float = 600, **shape: float) -> tuple[TraceRequest, ...]:
    return generate_agents(AgentShape(**shape), seconds=seconds, rng=random.Random(seed)).requests  # type: ignore[arg-type]


def sessions(requests: tuple[TraceRequest, ...]) -> dict[str, list[TraceRequest]]:
    result = defaultdict(list)
    for request in requests:
        result[str(request.session)].append(request)
    return result


def test_the_same_seed_gives_the_same_load_and_another_seed_another() -> None:
    assert generate(1) == generate(1)
    assert generate(1) != generate(2)


@given(seed=st.integers(0, 10_000), max_tokens=st.integers(2048, 100_000))
def test_every_request_is_within_the_window_and_the_models_length_and_its_blocks_fit_its_prompt(
    seed: int, max_tokens: int
) -> None:
    shape = AgentShape(requests_per_second=5).fitted(max_tokens)
    requests = generate_agents(shape, seconds=60, rng=random.Random(seed)).requests
    for request in requests:
        assert 0 <= request.arrival_seconds < 60
        assert request.input_tokens >= 1
        assert request.output_tokens >= 1
        assert request.input_tokens + request.output_tokens <= max_tokens
        assert len(request.blocks) == -(-request.input_tokens // BLOCK_SIZE)
    arrivals = [request.arrival_seconds for request in requests]
    assert arrivals == sorted(arrivals)


def test_each_call_sends_the_whole_context_again_and_something_new() -> None:
    pairs = [pair for turns in sessions(generate()).values() for pair in itertools.pairwise(turns)]
    assert len(pairs) > 500
    for earlier, later in pairs:
        assert later.input_tokens > earlier.input_tokens + earlier.output_tokens
        assert later.blocks[: len(earlier.blocks)] == earlier.blocks
        assert later.arrival_seconds > earlier.arrival_seconds


def test_sub_agents_work_while_their_parent_waits() -> None:
    by_session = sessions(generate(seconds=2000))
    waits = 0
    for name, turns in by_session.items():
        parent, separator, _ = name.partition("/")
        if not separator or parent not in by_session:
            continue
        begin, end = turns[0].arrival_seconds, turns[-1].arrival_seconds
        waits += 1
        assert not any(begin <= other.arrival_seconds <= end for other in by_session[parent])
    assert waits > 20


def test_sub_agents_share_a_system_prompt_and_nothing_else() -> None:
    shape = AgentShape()
    shared = shape.applications * -(-(shape.system_tokens + shape.sub_agent_system_tokens) // BLOCK_SIZE)
    starts = {turns[0].blocks for name, turns in sessions(generate(seconds=2000)).items() if "/" in name}
    systems = {blocks[: shape.sub_agent_system_tokens // BLOCK_SIZE] for blocks in starts if blocks[0] < shared}
    assert 1 <= len(systems) <= shape.applications
    owner: dict[int, str | None] = {}
    for request in generate():
        for block in request.blocks:
            if block >= shared:
                assert owner.setdefault(block, request.session) == request.session


def test_the_load_has_the_asked_rate() -> None:
    requests = generate(seconds=6000, requests_per_second=4)
    # Long tasks are ended by the length limit, so the rate is a little below what was asked.
    assert 3.0 < len(requests) / 6000 < 4.6


def test_a_model_too_short_for_a_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2048 tokens; this one has 2047"):
        AgentShape().fitted(2047)


def test_a_load_that_would_be_empty_or_endless_is_refused() -> None:
    with pytest.raises(ConfigError, match="ask for more time"):
        generate(seconds=0.001, requests_per_second=0.001)
    with pytest.raises(ConfigError, match="too many to generate"):
        generate(seconds=1e9)
