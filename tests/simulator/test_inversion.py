"""The load whose mix inverts, by the closed forms of the engine model alone: the roles exchange their needs."""

from __future__ import annotations

import math
import os
from itertools import product
from pathlib import Path

import pytest

from paceline.policy.scaling.decode_sizing import DecodeDemand, DecodeLimits, size_decode
from paceline.policy.scaling.profiles import get_profile
from paceline.simulator.policies.base import PREFILL_UTILISATION, MeanSteps
from paceline.simulator.shapes import INVERSION_OUTPUTS, INVERSION_PROMPTS
from paceline.traces.mooncake import read_mooncake
from paceline.traces.record import Trace

PROFILE = get_profile("qwen3-32b-h200-tp2")
LIMITS = DecodeLimits(0.025, PROFILE.max_seqs, PROFILE.kv_capacity_tokens)
FINE = 1000
"""Times the rate for which decode is sized, so that whole engines are fractions of one."""


@pytest.fixture(scope="module")
def trace() -> Trace:
    data = Path(os.environ.get("PACELINE_DATA", Path(__file__).parents[3] / "shared" / "data"))
    path = data / "traces" / "mooncake_conversation_trace.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there; set PACELINE_DATA to the folder that holds it")
    return read_mooncake(path)


def needed(trace: Trace, prompts: int, outputs: int) -> tuple[float, float]:
    """(prefill, decode) engines at the trace's rate, with prompts divided and outputs multiplied so."""
    seconds = trace.requests[-1].arrival_seconds
    sizes = [(max(1, one.input_tokens // prompts), one.output_tokens * outputs) for one in trace.requests]
    work = math.fsum(PROFILE.prefill_seconds(prompt) for prompt, _ in sizes) / seconds
    tokens = sum(output for _, output in sizes)
    context = math.fsum(output * (prompt + output / 2) for prompt, output in sizes) / tokens
    demand = DecodeDemand(FINE * len(sizes) / seconds, tokens / len(sizes), context)
    return work / PREFILL_UTILISATION, size_decode(MeanSteps(PROFILE), demand, LIMITS).engines / FINE


def test_the_roles_exchange_their_needs(trace: Trace) -> None:
    before, after = needed(trace, 1, 1), needed(trace, INVERSION_PROMPTS, INVERSION_OUTPUTS)
    assert before[0] / before[1] == pytest.approx(6.0, abs=0.1)
    assert after[1] / after[0] == pytest.approx(before[0] / before[1], rel=0.15)
    assert sum(after) == pytest.approx(sum(before), rel=0.15)


def test_no_whole_numbers_near_them_come_nearer_to_an_exchange(trace: Trace) -> None:
    prefill, decode = needed(trace, 1, 1)

    def off(prompts: int, outputs: int) -> float:
        shrunk, grown = needed(trace, prompts, outputs)
        return abs(shrunk - decode) + abs(grown - prefill)

    around = product(
        range(INVERSION_PROMPTS - 1, INVERSION_PROMPTS + 2), range(INVERSION_OUTPUTS - 1, INVERSION_OUTPUTS + 2)
    )
    assert min(around, key=lambda pair: off(*pair)) == (INVERSION_PROMPTS, INVERSION_OUTPUTS)
