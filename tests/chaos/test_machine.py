"""A clock that jumps, a full disk, and a kernel that kills for want of memory, under streams."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.machine import broken


@pytest.mark.parametrize("case", ["clock", "disk", "memory"])
async def test_no_stream_notices_what_the_machine_does(tmp_path: Path, case: str) -> None:
    seen = await broken(tmp_path, case, seconds=8, streams=16, seed=1, speed=0.5)
    assert seen["failed"] == 0, seen
    assert seen["completed"]
    assert seen["restarts"] == (0 if case == "clock" else 1)
