"""Engines that freeze, crawl, hang half-open, cut their streams off, garble them, or lose what was prefilled.

Run: ``python -m tests.chaos.engines CASE --seconds 60 --streams 200 --seed 1``. Exits non-zero when a stream failed.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from paceline.api import wire
from tests.chaos.command import run_case
from tests.chaos.load import Seen, stream_for
from tests.chaos.proxy import Trouble
from tests.chaos.scene import Scene, scene

SLOWER = 20.0
HEAL_SECONDS = 3.0
"""From the end of a fault to the end of the load: the engine is to be used again."""

Spoil = Callable[[Scene, random.Random, float], Awaitable[None]]
"""Breaks something for so many seconds, and mends it."""


async def frozen(one: Scene, rng: random.Random, seconds: float) -> None:
    """SIGSTOP, SIGCONT."""
    engine = rng.choice(one.of(wire.Role.DECODE))
    engine.signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    engine.signal(signal.SIGCONT)


async def slow(one: Scene, rng: random.Random, seconds: float) -> None:
    """All its steps take twenty times as long."""
    engine = rng.choice(one.of(wire.Role.DECODE))
    await one.faults(engine, slow=SLOWER)
    await asyncio.sleep(seconds)
    await one.faults(engine)


async def stuck(one: Scene, rng: random.Random, seconds: float) -> None:
    """It answers its checks and does no step."""
    engine = rng.choice(one.of(wire.Role.DECODE))
    await one.faults(engine, freeze=True)
    await asyncio.sleep(seconds)
    await one.faults(engine)


async def dropped_transfers(one: Scene, rng: random.Random, seconds: float) -> None:
    """Every KV transfer fails at once."""
    for engine in one.of(wire.Role.DECODE):
        await one.faults(engine, dropTransfers=True)
    await asyncio.sleep(seconds)
    for engine in one.of(wire.Role.DECODE):
        await one.faults(engine)


async def hanging_transfers(one: Scene, rng: random.Random, seconds: float) -> None:
    """The prefill engines freeze, with prompts that are computed and not fetched."""
    for engine in one.of(wire.Role.PREFILL):
        engine.signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    for engine in one.of(wire.Role.PREFILL):
        engine.signal(signal.SIGCONT)


def on_the_network(trouble: Trouble, *, everywhere: bool = False) -> Spoil:
    """Trouble between the routers and one engine, or all."""

    async def spoil(one: Scene, rng: random.Random, seconds: float) -> None:
        engines = one.engines if everywhere else [rng.choice(one.of(wire.Role.DECODE))]
        for engine in engines:
            engine.network.trouble = trouble
        await asyncio.sleep(seconds)
        for engine in engines:
            engine.network.trouble = Trouble()

    return spoil


CASES: dict[str, Spoil] = {
    "frozen": frozen,
    "slow": slow,
    "stuck": stuck,
    "dropped-transfers": dropped_transfers,
    "hanging-transfers": hanging_transfers,
    "half-open": on_the_network(Trouble(swallow=True)),
    "truncated": on_the_network(Trouble(cut_after_bytes=6000), everywhere=True),
    "garbled-framing": on_the_network(Trouble(garble_framing_after_bytes=6000)),
    "garbled-events": on_the_network(Trouble(garble_event_after_bytes=6000)),
    "delay-and-loss": on_the_network(Trouble(delay_seconds=0.03, loss=0.01), everywhere=True),
}


async def spoiled(
    folder: Path, case: str, *, seconds: float, streams: int, seed: int, speed: float
) -> dict[str, object]:
    """Run a load of which ``seconds`` are under the fault. Returns what became of the streams."""
    rng, seen = random.Random(seed), Seen()
    async with scene(folder, prefill=2, decode=3, speed=speed, proxied=True) as one:
        load = asyncio.create_task(stream_for(seconds + HEAL_SECONDS, [one.router.port], streams, seed, seen))
        await asyncio.wait([load], timeout=1.0)
        before = seen.completed
        await CASES[case](one, rng, seconds)
        during = seen.completed - before
        await load
        return {
            "case": case, "seconds": seconds, "streams": streams, "seed": seed, "speed": speed, **seen.summary(),
            "completed_meanwhile": during,
            "broken_by_the_network": sum(engine.network.broken for engine in one.engines),
            "resumed": await one.metric("paceline_router_resumes_total", outcome="ok"),
            "prefills_failed": await one.metric("paceline_router_remote_prefill_total", outcome="failed"),
        }  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_case(__doc__, CASES, spoiled))
