"""Routers that may ask a second engine, and engines that are late in turns."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from paceline.api import wire
from paceline_worker.http.server import Request, Response
from tests.waiting import until
from tests.worker.router.fakes import (
    EVENT_STREAM,
    Behaviour,
    Bench,
    FakeEngine,
    answer,
    bench,
    hang,
)

HEDGING = wire.Hedging(after_milliseconds=200, max_percent=50)
SAVED = 6
"""Requests before the one that is looked at: what they save up is enough, even if this machine makes one of them late.
"""
PATH = "/v1/completions"


async def head_then_hang(engine: FakeEngine, request: Request, response: Response) -> None:
    """As vLLM does, which sends the head of a stream before it has done anything."""
    response.start(200, (EVENT_STREAM,))
    await hang(engine, request, response)


class Turns:
    """Behaviours for the engines that are asked next, whichever these are; afterwards all are well."""

    def __init__(self) -> None:
        self.next: list[Behaviour] = []
        self.asked: list[FakeEngine] = []

    async def __call__(self, engine: FakeEngine, request: Request, response: Response) -> None:
        if not self.next:
            await answer(engine, request, response)
            return
        self.asked.append(engine)
        await self.next.pop(0)(engine, request, response)


@asynccontextmanager
async def hedged(tmp_path: Path, turns: Turns, *engines: FakeEngine, **changes: object) -> AsyncIterator[Bench]:
    """A router that has saved up second requests before engines that take turns; each is idle at the end."""
    for engine in engines:
        engine.behaviour = turns
    async with bench(tmp_path, *engines, **({"disaggregated": False, "hedging": HEDGING} | changes)) as router:
        for _ in range(SAVED):
            assert (await router.complete("before")).status_code == 200
        for engine in engines:
            engine.seen.clear()
        yield router
        await until(router.is_idle)


async def hedges(router: Bench, stage: str) -> dict[str, float]:
    found = {}
    for outcome in ("first", "second", "failed", "abandoned", "no_room", "over_budget"):
        count = await router.metric("hedges_total", stage=stage, outcome=outcome)
        if count:
            found[outcome] = count
    return found


async def until_counted(router: Bench, stage: str, outcome: str, times: int = 1) -> None:
    labels = {"stage": stage, "outcome": outcome}
    registry = router.router.metrics.registry
    await until(lambda: (registry.get_sample_value("paceline_router_hedges_total", labels) or 0) >= times)


def two() -> tuple[FakeEngine, FakeEngine]:
    return FakeEngine("one", role=wire.Role.BOTH), FakeEngine("other", role=wire.Role.BOTH)


def disaggregated() -> tuple[FakeEngine, FakeEngine, FakeEngine, FakeEngine]:
    return (
        FakeEngine("d1"), FakeEngine("d2"),
        FakeEngine("p1", role=wire.Role.PREFILL), FakeEngine("p2", role=wire.Role.PREFILL),
    )  # fmt: skip
