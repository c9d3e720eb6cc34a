"""kill -9 of one engine after another under concurrent streams: does any client notice?

Run: ``python -m tests.chaos.kills --seconds 60 --streams 1000 --seed 1``. Exits non-zero when a stream failed. Engines
are emulated at a tenth of their speed by default: 1,000 streams then make as many tokens as two cores carry.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from pathlib import Path

from tests.chaos.command import parser, report
from tests.chaos.load import Seen, stream_for
from tests.chaos.scene import scene

EVERY_SECONDS = 5.0
PREFILL, DECODE = 2, 6
TOKENS = (60, 160)
PROMPT = (5, 200)
"""Characters. Slowed engines compute few prompts a second; those of a thousand streams are short."""


async def killing(
    folder: Path, *, seconds: float, streams: int, seed: int, speed: float, every: float = EVERY_SECONDS
) -> dict[str, object]:
    """Kill one of eight engines every few seconds. Returns what became of the streams."""
    rng, seen = random.Random(seed), Seen()
    async with scene(folder, prefill=PREFILL, decode=DECODE, speed=speed) as one:
        load = asyncio.create_task(
            stream_for(seconds, [one.router.port], streams, seed, seen, tokens=TOKENS, prompt=PROMPT)
        )
        killed: list[str] = []
        for _ in range(round(seconds / every)):
            await asyncio.wait([load], timeout=every)
            if load.done():
                break
            engine = rng.choice([engine for engine in one.engines if engine.alive])
            engine.signal(signal.SIGKILL)
            killed.append(engine.name)
        await load
        resumed = await one.metric("paceline_router_resumes_total", outcome="ok")
        retried = await one.metric("paceline_router_retries_total")
        return {
            "case": "kills", "seconds": seconds, "streams": streams, "seed": seed, "speed": speed,
            "killed": len(killed), "restarts": one.restarts, **seen.summary(), "resumed": resumed, "retried": retried,
        }  # fmt: skip


def main() -> int:
    """Parse arguments, run, print the report as JSON."""
    arguments = parser(__doc__, seconds=60.0, streams=1000, speed=0.1).parse_args()
    return report(
        killing(
            arguments.out / "kills", seconds=arguments.seconds, streams=arguments.streams, seed=arguments.seed,
            speed=arguments.speed,
        )
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
