"""The machine under routers and engines goes wrong: its clock jumps, its disk is full, it kills for want of memory.

Run: ``python -m tests.chaos.machine clock --seconds 60 --streams 100 --seed 1``. Exits non-zero when a stream failed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.chaos.command import run_case
from tests.chaos.load import Seen, stream_for
from tests.chaos.scene import Scene, WorkedEngine, scene

HOUR = 3600.0
JUMPS = (HOUR, -2 * HOUR, 24 * HOUR, 0.0)
"""Off the right time by so much, one after the other."""
FULL = Path("/dev/full")
"""Whoever writes to it is told that the disk is full."""

Case = Callable[[Scene, random.Random, float], Awaitable[None]]


async def clock(one: Scene, rng: random.Random, seconds: float) -> None:
    """The wall clock of routers and engines jumps by hours, forth and back."""
    for offset in JUMPS:
        (one.folder / "clock").write_text(str(offset))
        await asyncio.sleep(seconds / len(JUMPS))


async def disk(one: Scene, rng: random.Random, seconds: float) -> None:
    """Nothing can be logged, and there is something to log: an engine dies."""
    await asyncio.sleep(seconds / 2)
    rng.choice(one.engines).signal(signal.SIGKILL)
    await asyncio.sleep(seconds / 2)
    await one.until_restarted(1)


async def memory(one: Scene, rng: random.Random, seconds: float) -> None:
    """The kernel kills an engine, and not its worker, for want of memory."""
    await asyncio.sleep(seconds / 2)
    worker = rng.choice(one.engines)
    assert isinstance(worker, WorkedEngine)
    state = (await one.client.get(f"http://127.0.0.1:{worker.admin_port}/state")).json()
    os.kill(state["pid"], signal.SIGKILL)
    await asyncio.sleep(seconds / 2)
    await one.until_restarted(1)


CASES: dict[str, Case] = {"clock": clock, "disk": disk, "memory": memory}
HOW: dict[str, Callable[[Path], dict[str, Any]]] = {
    "clock": lambda folder: {"clock": folder / "clock"},
    "disk": lambda _: {"log": FULL},
    "memory": lambda _: {"workers": True},
}


async def broken(
    folder: Path, case: str, *, seconds: float, streams: int, seed: int, speed: float
) -> dict[str, object]:
    """Run a load meanwhile. Returns what became of the streams."""
    rng, seen = random.Random(seed), Seen()
    async with scene(folder, prefill=1, decode=2, speed=speed, **HOW[case](folder)) as one:
        load = asyncio.create_task(stream_for(seconds, [one.router.port], streams, seed, seen))
        await CASES[case](one, rng, seconds)
        await load
        return {
            "case": case, "seconds": seconds, "streams": streams, "seed": seed, "speed": speed, **seen.summary(),
            "restarts": one.restarts,
        }  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_case(__doc__, CASES, broken))
