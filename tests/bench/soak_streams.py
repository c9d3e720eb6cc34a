"""Many concurrent streams through the router for minutes: does any fail, does the router's memory stay flat?

Run: ``python -m tests.bench.soak_streams --streams 200 --minutes 5``. Exits non-zero when a stream failed. Memory is
reported as resident bytes over time; the slope is a least-squares fit over the second half, after pools have filled.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.bench.stack import SERVED_NAME, Stack, cpu_seconds, rss_bytes, running_stack

SAMPLE_SECONDS = 2.0
MIB = 1024 * 1024


@dataclass(slots=True)
class Tally:
    """What the clients saw."""

    completed: int = 0
    tokens: int = 0
    failures: list[str] = field(default_factory=list)


async def one_stream(session: aiohttp.ClientSession, url: str, rng: random.Random, tally: Tally) -> None:
    """Send one streamed completion and check that it ends as it should."""
    wanted = rng.randint(32, 256)
    body = {
        "model": SERVED_NAME,
        "prompt": [rng.randrange(256) for _ in range(rng.randint(16, 4096))],
        "max_tokens": wanted,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    usage: dict[str, int] | None = None
    done = False
    async with session.post(f"{url}/v1/completions", json=body) as answer:
        if answer.status != 200:
            tally.failures.append(f"status {answer.status}: {(await answer.text())[:200]}")
            return
        async for line in answer.content:
            if line.startswith(b"data: [DONE]"):
                done = True
            elif b'"usage":{' in line or b'"usage": {' in line:
                usage = json.loads(line[len(b"data: ") :])["usage"]
    if not done:
        tally.failures.append("the stream ended without [DONE]")
    elif usage is None or usage["completion_tokens"] != wanted:
        tally.failures.append(f"asked for {wanted} tokens, usage says {usage}")
    else:
        tally.completed += 1
        tally.tokens += wanted


async def client(session: aiohttp.ClientSession, url: str, seed: int, until: float, tally: Tally) -> None:
    """One closed-loop client: the next stream starts when the last one ended."""
    rng = random.Random(seed)
    while time.monotonic() < until:
        try:
            await one_stream(session, url, rng, tally)
        except (aiohttp.ClientError, TimeoutError) as error:
            tally.failures.append(f"{type(error).__name__}: {error}")


def slope_per_minute(samples: list[tuple[float, int]]) -> float:
    """Least-squares slope of (seconds, bytes) in bytes a minute."""
    times = [at for at, _ in samples]
    return statistics.linear_regression(times, [size for _, size in samples]).slope * 60


async def soak(stack: Stack, streams: int, minutes: float) -> dict[str, object]:
    """Run the load and watch the router; returns the report."""
    tally = Tally()
    began = time.monotonic()
    until = began + 60 * minutes
    cpu_before = cpu_seconds(stack.router_pid)
    samples: list[tuple[float, int]] = []
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        clients = [
            asyncio.create_task(client(session, stack.router_url, seed, until, tally)) for seed in range(streams)
        ]
        while time.monotonic() < until:
            await asyncio.sleep(SAMPLE_SECONDS)
            samples.append((time.monotonic() - began, rss_bytes(stack.router_pid)))
        await asyncio.gather(*clients)
    later = samples[len(samples) // 2 :]
    return {
        "concurrent_streams": streams,
        "minutes": minutes,
        "completed": tally.completed,
        "failed": len(tally.failures),
        "first_failures": tally.failures[:5],
        "output_tokens": tally.tokens,
        "router_cpu_seconds": round(cpu_seconds(stack.router_pid) - cpu_before, 1),
        "router_rss_mib": {
            "first": round(samples[0][1] / MIB, 1),
            "middle": round(later[0][1] / MIB, 1),
            "last": round(samples[-1][1] / MIB, 1),
            "max": round(max(size for _, size in samples) / MIB, 1),
        },
        "router_rss_slope_second_half_mib_per_minute": round(slope_per_minute(later) / MIB, 3),
    }


def main() -> int:
    """Parse arguments, run, print the report as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--prefill", type=int, default=2)
    parser.add_argument("--decode", type=int, default=2)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--profile", default="qwen3-32b-h200-tp2")
    parser.add_argument("--out", type=Path, default=Path("out/bench/soak-streams"))
    arguments = parser.parse_args()
    with running_stack(
        arguments.out, prefill=arguments.prefill, decode=arguments.decode, profile=arguments.profile,
        speed=arguments.speed,
    ) as stack:  # fmt: skip
        report = asyncio.run(soak(stack, arguments.streams, arguments.minutes))
    print(json.dumps(report, indent=2))
    (arguments.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
