"""What engines and the network do to streams in flight, and that their clients see none of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.engines import spoiled

STREAMS = 16
SPEED = 0.5
SECONDS = {"frozen": 13.0, "stuck": 13.0, "half-open": 12.0, "hanging-transfers": 12.0}
"""Where that is longer than the router takes to notice; other faults show at once."""
CUTS = ("truncated", "garbled-framing", "garbled-events")


async def run(folder: Path, case: str) -> dict[str, object]:
    seen = await spoiled(folder, case, seconds=SECONDS.get(case, 5.0), streams=STREAMS, seed=1, speed=SPEED)
    assert seen["failed"] == 0, seen
    assert seen["completed_meanwhile"], "nothing was served while it lasted"
    return seen


@pytest.mark.parametrize("case", ["frozen", "stuck", "half-open"])
async def test_streams_of_an_engine_from_which_nothing_comes_go_on_elsewhere(tmp_path: Path, case: str) -> None:
    assert (await run(tmp_path, case))["resumed"], "no stream was stuck: this run shows nothing"


@pytest.mark.parametrize("case", CUTS)
async def test_streams_that_are_cut_off_or_garbled_on_their_way_are_put_right(tmp_path: Path, case: str) -> None:
    seen = await run(tmp_path, case)
    assert seen["broken_by_the_network"], "nothing was broken: this run shows nothing"
    assert seen["resumed"]


async def test_a_slow_engine_and_a_network_with_delay_and_loss_cost_time_only(tmp_path: Path) -> None:
    await run(tmp_path / "slow", "slow")
    await run(tmp_path / "network", "delay-and-loss")


async def test_transfers_that_fail_or_hang_cost_time_only(tmp_path: Path) -> None:
    await run(tmp_path / "dropped", "dropped-transfers")
    assert (await run(tmp_path / "hanging", "hanging-transfers"))["prefills_failed"]
