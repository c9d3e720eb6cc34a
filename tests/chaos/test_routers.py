"""A router dies: requests go to the other one by their clients' own retries, streams that have begun end."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.routers import killing


async def test_only_streams_that_had_begun_on_a_killed_router_break(tmp_path: Path) -> None:
    seen = await killing(tmp_path, seconds=10, streams=16, seed=1, speed=0.5, every=3)
    assert seen["failed"] == 0, seen
    assert seen["killed"]
    assert seen["broken_streams"] <= seen["streams_begun_at_kills"]  # type: ignore[operator]
