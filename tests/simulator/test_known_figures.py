"""The real conversation trace through the simulator's own parts gives the figures that the design was made from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from paceline.policy.scaling.profiles import get_profile
from paceline.simulator.cache import Tier, leading
from paceline.simulator.workload import Workload
from paceline.traces.mooncake import read_mooncake

TTFT_SECONDS = 2.0


@pytest.fixture(scope="module")
def workload() -> Workload:
    data = Path(os.environ.get("PACELINE_DATA", Path(__file__).parents[3] / "shared" / "data"))
    path = data / "traces" / "mooncake_conversation_trace.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there; set PACELINE_DATA to the folder that holds it")
    return Workload(read_mooncake(path))


def test_cold_and_warm_prompts_keep_as_many_engines_busy_as_is_known(workload: Workload) -> None:
    profile = get_profile("qwen3-32b-h200-tp2")
    seen: dict[int, None] = {}
    cold, warm = [], []
    for request in workload:
        known = min(leading(seen, request.blocks, 0, len(request.blocks)), (request.prompt - 1) // workload.block_size)
        cached = known * workload.block_size
        seen.update(dict.fromkeys(request.blocks))
        cold.append(profile.prefill_seconds(request.prompt))
        warm.append(profile.prefill_seconds(request.prompt - cached, cached))
    assert sum(cold) / workload.seconds == pytest.approx(3.07, abs=0.01)
    assert sum(warm) / workload.seconds == pytest.approx(2.00, abs=0.01)
    assert sum(seconds > TTFT_SECONDS for seconds in cold) / len(cold) == pytest.approx(0.093, abs=0.0005)
    assert sum(seconds > TTFT_SECONDS for seconds in warm) / len(warm) == pytest.approx(0.057, abs=0.0005)


@pytest.mark.parametrize(("blocks", "rate"), [(10_000, 0.21), (30_000, 0.33), (1_000_000, 0.366)])
def test_one_pooled_cache_hits_as_often_as_is_known(workload: Workload, blocks: int, rate: float) -> None:
    tier = Tier(blocks)
    hits = started = 0
    for request in workload:
        hits += leading(tier.held, request.blocks, 0, len(request.blocks))
        started += -(-request.prompt // workload.block_size)
        tier.touch(request.blocks)
        tier.shrink(blocks)
    assert hits / started == pytest.approx(rate, abs=0.005)
