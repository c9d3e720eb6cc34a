"""Loads that vary: what changes, and what stays as it is in the trace."""

from __future__ import annotations

import random

import pytest

from paceline.simulator.shapes import INVERSION_OUTPUTS, INVERSION_PROMPTS, SHAPES, bursty, inverted, ramped
from paceline.traces.generate import ConversationShape, generate_conversations
from paceline.traces.record import Trace


@pytest.fixture(scope="module")
def trace() -> Trace:
    return generate_conversations(ConversationShape(requests_per_second=2), seconds=3600, rng=random.Random(3))


def rate(trace: Trace, start: float, end: float) -> float:
    return sum(start <= request.arrival_seconds < end for request in trace.requests) / (end - start)


def test_bursts_are_four_times_the_rate_for_a_minute(trace: Trace) -> None:
    load = bursty(trace, 0)
    assert rate(load, 305, 360) == pytest.approx(4 * rate(trace, 305, 360), rel=0.35)
    assert rate(load, 400, 880) == pytest.approx(rate(trace, 400, 880), rel=0.05)
    assert rate(load, 905, 960) > 2 * rate(load, 840, 895)


def test_a_ramp_ends_at_five_times_the_rate(trace: Trace) -> None:
    load = ramped(trace, 0)
    assert rate(load, 0, 1100) == pytest.approx(rate(trace, 0, 1100), rel=0.02)
    assert rate(load, 2000, 3500) == pytest.approx(5 * rate(trace, 2000, 3500), rel=0.1)


def test_an_inversion_trades_prompts_for_outputs_and_back(trace: Trace) -> None:
    load = inverted(trace, 0)
    pairs = list(zip(trace.requests, load.requests, strict=True))
    first = [(old, new) for old, new in pairs if old.arrival_seconds < 600]
    second = [(old, new) for old, new in pairs if 600 <= old.arrival_seconds < 1200]
    assert all(old is new for old, new in first)
    assert all(new.input_tokens == max(1, old.input_tokens // INVERSION_PROMPTS) for old, new in second)
    assert all(new.output_tokens == INVERSION_OUTPUTS * old.output_tokens for old, new in second)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_every_prompt_keeps_one_block_id_for_each_started_block(trace: Trace, name: str) -> None:
    for request in SHAPES[name](trace, 1).requests:
        assert len(request.blocks) == -(-request.input_tokens // request.block_size)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_the_same_seed_gives_the_same_load_in_order(trace: Trace, name: str) -> None:
    one, other = SHAPES[name](trace, 1), SHAPES[name](trace, 1)
    assert one == other
    arrivals = [request.arrival_seconds for request in one.requests]
    assert arrivals == sorted(arrivals)
