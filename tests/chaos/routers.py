"""One of two routers is killed, again and again, under clients of the openai library behind one address.

Run: ``python -m tests.chaos.routers --seconds 60 --streams 100 --seed 1``. A Service's address is a proxy that goes to
the replicas in turn, dead or not. A request that had no answer yet must succeed by the library's own retries. A stream
that has begun ends with its router: those are counted apart, and must be no more than that router had.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai

from tests.chaos.command import parser, report
from tests.chaos.load import Wanted, wanted
from tests.chaos.proxy import FaultProxy
from tests.chaos.scene import MODEL, Scene, scene

EVERY_SECONDS = 5.0
RETRIES = 5


@dataclass(slots=True)
class Answers:
    """What became of the requests."""

    completed: int = 0
    broken: int = 0
    """Streams that had begun and ended with their router."""
    failures: list[str] = field(default_factory=list)
    begun: Counter[int] = field(default_factory=Counter)
    """Streams that have begun and not ended; one entry, so that it can be read at the moment of a kill."""


async def ask(client: openai.AsyncOpenAI, asked: Wanted, answers: Answers) -> None:
    """One stream, and what became of it."""
    body: dict[str, Any] = json.loads(asked.body)
    begun, text = False, []
    extra = {"extra_body": {"ignore_eos": body.pop("ignore_eos")}}
    create: Any = client.chat.completions.create if "messages" in body else client.completions.create
    try:
        async for event in await create(**body, **extra):
            if not begun:
                begun = True
                answers.begun[0] += 1
            text += [choice.delta.content or "" if "messages" in body else choice.text for choice in event.choices]
    except (openai.OpenAIError, OSError) as error:
        _failed(answers, begun, error)
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpcore"):
            raise
        _failed(answers, begun, error)
    else:
        if "".join(text) == asked.text:
            answers.completed += 1
        else:
            answers.failures.append(f"the text is another one: {''.join(text)[:60]!r}, wanted {asked.text[:60]!r}")
    finally:
        answers.begun[0] -= begun


def _failed(answers: Answers, begun: bool, error: Exception) -> None:
    if begun:
        answers.broken += 1
    else:
        answers.failures.append(f"{type(error).__name__}: {error}")


async def killing(
    folder: Path, *, seconds: float, streams: int, seed: int, speed: float, every: float = EVERY_SECONDS
) -> dict[str, object]:
    """Kill one of two routers every few seconds and start it again. Returns what became of the requests."""
    rng, answers, at_risk, kills = random.Random(seed), Answers(), 0, 0
    loop = asyncio.get_running_loop()
    async with scene(folder, decode=3, speed=speed, routers=2) as one:
        service = FaultProxy(*(router.port for router in one.routers))
        await service.start()
        until = loop.time() + seconds

        async def client(number: int) -> None:
            mine = random.Random(seed * 1_000_003 + number)
            while loop.time() < until:
                # A client of its own: a connection of its own, as different programs have.
                async with openai.AsyncOpenAI(
                    base_url=f"http://127.0.0.1:{service.port}/v1", api_key="none", max_retries=RETRIES
                ) as library:
                    await ask(library, wanted(mine), answers)

        load = asyncio.gather(*(client(number) for number in range(streams)))
        for _ in range(round(seconds / every)):
            await asyncio.wait([load], timeout=every)
            if load.done():
                break
            at_risk += answers.begun[0]
            kills += 1
            await _bounce(one, rng)
        await load
        await service.close()
        return {
            "case": "routers", "model": MODEL, "seconds": seconds, "streams": streams, "seed": seed, "speed": speed,
            "killed": kills, "completed": answers.completed, "failed": len(answers.failures),
            "first_failures": answers.failures[:5], "broken_streams": answers.broken, "streams_begun_at_kills": at_risk,
        }  # fmt: skip


async def _bounce(one: Scene, rng: random.Random) -> None:
    router = rng.choice(one.routers)
    router.signal(signal.SIGKILL)
    await router.ended()
    router.start()
    await one.until_answers(router, f"{router.admin}/readyz")


def main() -> int:
    """Parse arguments, run, print the report as JSON."""
    given = parser(__doc__, seconds=60.0, streams=50, speed=0.5).parse_args()
    return report(
        killing(given.out / "routers", seconds=given.seconds, streams=given.streams, seed=given.seed, speed=given.speed)
    )


if __name__ == "__main__":
    sys.exit(main())
