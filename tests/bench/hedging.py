"""What a second engine is worth while one of four engines is slow now and then, and what it costs.

Run: ``python -m tests.bench.hedging``. Prints the TTFT with hedging off and on: two routers with engines of their own
run side by side and get the same requests at the same times, so that other work on the machine disturbs both alike, and
their engines in turn are slowed by the same factor at the same times. ``--factor 1`` slows none: what it costs where it
isn't needed. Emulated engines, one process each, that serve both roles; times are those of ``--speed 1``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import uvloop

from paceline.api import wire
from paceline.policy.quantiles import reached
from tests.bench.stack import SERVED_NAME, Stack, running_stack
from tests.series import series

PROFILE = "qwen3-32b-h200-tp2"
ENGINES = 4
PROMPT_TOKENS = 1000
OUTPUT_TOKENS = 64
LIMIT_BYTES = 1 << 20
HEAD = (
    b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n"
)


@dataclass(slots=True)
class Seen:
    """Of all requests of a run."""

    ttft: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def body(draw: random.Random) -> bytes:
    """A request with a prompt of its own."""
    prompt = [draw.randrange(256) for _ in range(PROMPT_TOKENS)]
    asked = {"model": SERVED_NAME, "prompt": prompt, "max_tokens": OUTPUT_TOKENS, "ignore_eos": True, "stream": True}
    return json.dumps(asked).encode()


async def one(port: int, asked: bytes, seen: Seen) -> None:
    """One stream to its end."""
    began, first, events = time.monotonic(), 0.0, 0
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=LIMIT_BYTES)
        try:
            writer.write(HEAD % len(asked) + asked)
            async for line in reader:
                if line.startswith(b"data: {"):
                    first = first or time.monotonic()
                    events += 1
        finally:
            writer.close()
    except OSError as error:
        seen.failures.append(f"{type(error).__name__}: {error}")
        return
    if events < OUTPUT_TOKENS:
        seen.failures.append(f"{events} events of {OUTPUT_TOKENS}")
        return
    seen.ttft.append(first - began)


async def slow_in_turn(stack: Stack, client: httpx.AsyncClient, factor: float, slow: float, every: float) -> None:
    """Make one engine after the other slow for ``slow`` of each ``every`` seconds, until cancelled."""
    turn, begin = 0, time.monotonic()
    while True:
        url = f"{stack.engine_urls[turn % ENGINES]}/emulator/faults"
        await asyncio.sleep(max(0.0, begin + turn * every + (every - slow) - time.monotonic()))
        (await client.post(url, json={"slow": factor})).raise_for_status()
        await asyncio.sleep(slow)
        (await client.post(url, json={})).raise_for_status()
        turn += 1


async def run(stack: Stack, given: argparse.Namespace) -> dict[str, object]:
    """Offer the load, and say what became of it."""
    draw, seen = random.Random(given.seed), Seen()
    port, rate = int(stack.router_url.rpartition(":")[2]), given.rate * given.speed
    tasks = set[asyncio.Task[None]]()
    async with httpx.AsyncClient(timeout=30) as client:
        slow, every = given.slow_seconds / given.speed, given.every / given.speed
        slowed = asyncio.create_task(slow_in_turn(stack, client, given.factor, slow, every))
        try:
            at = begin = time.monotonic()
            while at < begin + given.seconds:
                at += draw.expovariate(rate)
                asked = body(draw)
                await asyncio.sleep(max(0.0, at - time.monotonic()))
                task = asyncio.create_task(one(port, asked, seen))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        finally:
            slowed.cancel()
            await asyncio.gather(slowed, return_exceptions=True)
        for url in stack.engine_urls:
            (await client.post(f"{url}/emulator/faults", json={})).raise_for_status()
        await asyncio.gather(*tasks)
        page = (await client.get(f"{stack.admin_url}/metrics")).text
    counted = series(page, "paceline_router_hedges_total")
    hedges = {f"{labels['stage']} {labels['outcome']}": int(value) for labels, value in counted}
    milliseconds = [1000 * given.speed * value for value in seen.ttft]
    ttft = {f"p{percent:g}": round(reached(milliseconds, percent / 100)) for percent in (50, 90, 95, 99, 99.9)}
    return {
        "requests": len(milliseconds),
        "ttft_milliseconds": ttft,
        "hedges": hedges,
        "failures": len(seen.failures),
        "first_failures": seen.failures[:3],
    }


async def both(stacks: Sequence[Stack], given: argparse.Namespace) -> list[dict[str, object]]:
    """The same load on each, at the same time."""
    return await asyncio.gather(*(run(stack, given) for stack in stacks))


def main() -> int:
    """Parse arguments, run without and with hedging, write the report as JSON. Exits non-zero when a request failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--factor", type=float, default=20.0, help="how much slower an engine is")
    parser.add_argument("--slow-seconds", type=float, default=0.6, help="in a row")
    parser.add_argument("--every", type=float, default=12.0, help="seconds, after which the next engine is slow")
    parser.add_argument("--rate", type=float, default=8.0, help="requests a second")
    parser.add_argument("--after", type=float, default=300.0, help="milliseconds; afterMilliseconds")
    parser.add_argument("--percent", type=int, default=5, help="maxPercent")
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=110.0, help="of this machine")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/bench/hedging"))
    given = parser.parse_args()
    settings = wire.Hedging(after_milliseconds=max(1, round(given.after / given.speed)), max_percent=given.percent)
    with ExitStack() as running:
        stacks = [
            running.enter_context(running_stack(
                given.out / name, prefill=0, decode=ENGINES, profile=PROFILE, speed=given.speed, faults=True,
                hedging=hedging,
            ))
            for name, hedging in (("off", None), ("on", settings))
        ]  # fmt: skip
        off, on = uvloop.run(both(stacks, given))
    report = {"off": off, "on": on}
    for name, row in report.items():
        print(json.dumps({name: row}), flush=True)
    (given.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return int(any(row["failures"] for row in report.values()))


if __name__ == "__main__":
    sys.exit(main())
