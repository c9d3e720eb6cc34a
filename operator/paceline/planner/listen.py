"""Looks at routers for a while without deciding anything. ``paceline record`` calls it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from paceline.clock import Clock
from paceline.errors import EngineError
from paceline.planner.observe import observe
from paceline.planner.recorder import Line, Taken
from paceline.planner.scrape import RouterScraper
from paceline.planner.source import Router
from paceline.policy.scaling.decision import Decision
from paceline.policy.scaling.observation import Counts, Measured


async def listen(routers: Sequence[Router], *, seconds: float, every: float, clock: Clock) -> list[Line]:
    """Observations of ``seconds``. Raises EngineError when a router's metrics can't be read in the end."""
    source = RouterScraper(clock)
    lines: list[Line] = []
    begin = clock.monotonic()
    problem: str | None = None
    try:
        while True:
            reading = await source.read("", "", routers, seconds=2 * every)
            names = [router.name for router in routers]
            seen = observe(
                reading, (), names, now=clock.wall(), window_seconds=1.5 * every, measured=Measured(),
            )  # fmt: skip
            problem = None if seen.blind is None else seen.blind.message
            if seen.observation.arrivals:
                nothing = Decision(at=seen.observation.now, before=Counts(), roles=Counts(), engines=Counts())
                lines.append(Taken(observation=seen.observation, decision=nothing))
            if clock.monotonic() - begin >= seconds:
                break
            await asyncio.sleep(every)
    finally:
        await source.close()
    if not lines:
        raise EngineError(f"Nothing could be recorded: {problem}.")
    return lines
