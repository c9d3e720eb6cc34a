"""Many concurrent streams through the router for minutes: does any fail, does it leak memory, sockets or tasks?

Run: ``python -m tests.bench.soak_streams --minutes 30``. Exits non-zero when a stream failed, or when sockets or tasks
are left when all streams have ended. The default load is 70% of what two prefill engines compute. Slopes are
least-squares fits over the second half, after pools have filled.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from paceline.api.wire import Late
from tests.bench.stack import SERVED_NAME, Stack, running_stack
from tests.processes import cpu_seconds, rss_bytes
from tests.series import total

SAMPLE_SECONDS = 2.0
SETTLE_SECONDS = 8.0
"""Longer than the router keeps connections to engines that nobody uses."""
SPARE = 4
"""Sockets and tasks more than before that are no leak: health checks come and go."""
STREAMS = 28
"""Each takes 2 s or so, and two prefill engines compute 20 such prompts a second: 70% of that."""
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


@dataclass(frozen=True, slots=True)
class Sample:
    """The router at one moment; ``at`` in seconds since the beginning."""

    at: float
    rss_bytes: int
    files: int
    """Open files and sockets."""
    tasks: int


async def look(session: aiohttp.ClientSession, stack: Stack, began: float) -> Sample:
    """One sample."""
    async with session.get(f"{stack.admin_url}/metrics") as answer:
        page = await answer.text()
    tasks = total(page, "paceline_router_tasks")
    files = len(os.listdir(f"/proc/{stack.router_pid}/fd"))
    return Sample(time.monotonic() - began, rss_bytes(stack.router_pid), files, int(tasks))


def slope_per_minute(samples: list[Sample], of: Callable[[Sample], float]) -> float:
    """Least-squares slope of what ``of`` says, a minute."""
    return statistics.linear_regression([one.at for one in samples], [of(one) for one in samples]).slope * 60


def figures(samples: list[Sample], before: Sample, after: Sample, of: Callable[[Sample], float]) -> dict[str, float]:
    """How one figure went: without load, through the second half, at the end, and when the load had gone."""
    later = samples[len(samples) // 2 :]
    return {
        "before": round(of(before), 2),
        "middle": round(of(later[0]), 2),
        "last": round(of(later[-1]), 2),
        "max": round(max(map(of, samples)), 2),
        "after": round(of(after), 2),
        "slope_second_half_per_minute": round(slope_per_minute(later, of), 4),
    }


async def soak(stack: Stack, streams: int, minutes: float) -> dict[str, object]:
    """Run the load and watch the router; returns the report."""
    tally = Tally()
    began = time.monotonic()
    until = began + 60 * minutes
    cpu_before = cpu_seconds(stack.router_pid)
    samples: list[Sample] = []
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession() as watcher:
        before = await look(watcher, stack, began)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        clients = [
            asyncio.create_task(client(session, stack.router_url, seed, until, tally)) for seed in range(streams)
        ]
        while time.monotonic() < until:
            await asyncio.sleep(SAMPLE_SECONDS)
            samples.append(await look(session, stack, began))
        await asyncio.gather(*clients)
    await asyncio.sleep(SETTLE_SECONDS)
    async with aiohttp.ClientSession() as watcher:
        after = await look(watcher, stack, began)
    return {
        "concurrent_streams": streams,
        "minutes": minutes,
        "completed": tally.completed,
        "failed": len(tally.failures),
        "first_failures": tally.failures[:5],
        "output_tokens": tally.tokens,
        "router_cpu_seconds": round(cpu_seconds(stack.router_pid) - cpu_before, 1),
        "router_rss_mib": figures(samples, before, after, lambda one: one.rss_bytes / MIB),
        "router_files": figures(samples, before, after, lambda one: one.files),
        "router_tasks": figures(samples, before, after, lambda one: one.tasks),
        "left": max(0, after.files - before.files - SPARE) + max(0, after.tasks - before.tasks - SPARE),
    }


def main() -> int:
    """Parse arguments, run, print the report as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--streams", type=int, default=STREAMS)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--prefill", type=int, default=2)
    parser.add_argument("--decode", type=int, default=2)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--profile", default="qwen3-32b-h200-tp2")
    parser.add_argument("--out", type=Path, default=Path("out/bench/soak-streams"))
    arguments = parser.parse_args()
    with running_stack(
        arguments.out, prefill=arguments.prefill, decode=arguments.decode, profile=arguments.profile,
        speed=arguments.speed, late=Late.SERVE,  # its clients would not wait before they come again
    ) as stack:  # fmt: skip
        report = asyncio.run(soak(stack, arguments.streams, arguments.minutes))
    print(json.dumps(report, indent=2))
    (arguments.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return 1 if report["failed"] or report["left"] else 0


if __name__ == "__main__":
    sys.exit(main())
