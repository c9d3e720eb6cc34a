"""Engines die under streams, and no client notices. The long form is ``python -m tests.chaos.kills``."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.kills import killing


async def test_no_stream_notices_that_engines_are_killed_one_after_another(tmp_path: Path) -> None:
    seen = await killing(tmp_path, seconds=15, streams=150, seed=1, speed=0.2, every=3)
    assert seen["failed"] == 0, seen
    assert seen["killed"] >= 4  # the fifth comes as the last streams end
    assert seen["resumed"], "no stream was cut: this run shows nothing"
