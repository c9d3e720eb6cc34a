"""Of four engines two say what they should not: they are out of rotation, no request fails, and they come back."""

from __future__ import annotations

from pathlib import Path

from tests.worker.router.wellness.scene import all_well, asked, scene, seen_out

FAULTS = {"engine-1": ("repetition", "one-token"), "engine-2": ("script", "script")}
"""The others are in ``python -m tests.bench.output_health faults``."""
REASONS = {engine: reason for engine, (_, reason) in FAULTS.items()}


async def test_engines_that_say_nonsense_are_out_at_once_and_back_when_they_are_well(tmp_path: Path) -> None:
    async with scene(tmp_path, engines=4, least_tokens=40, most_tokens=60) as here:
        # All are well at first, so that there is something to compare with.
        await here.load(asked(here, 84), most=200)
        assert await here.suspended() == {}
        for engine, (fault, _) in FAULTS.items():
            await here.fault(engine, **{fault: True})
        await here.load(seen_out(here, REASONS), most=400)
        for engine in FAULTS:
            await here.fault(engine)
        await here.load(all_well(here), most=4000)
        assert here.statuses.keys() == {200}
        page = await here.page()
        for reason in REASONS.values():
            assert f'paceline_router_engine_suspensions_total{{outcome="out",reason="{reason}"}}' in page
        samples = (await here.client.get(f"{here.admin}/output-samples")).json()["samples"]
        assert {(one["engine"], one["sign"]) for one in samples} == set(REASONS.items())
        assert all(one["text"] for one in samples)
