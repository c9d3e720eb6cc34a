"""What cache-aware placement is worth over HTTP: the real router and emulated engines, an agents' trace, engine time.

Run: ``python -m tests.bench.bench_effect_http [--engines 4] [--seconds 40] [--speed 0.5]``. The same requests at the
same times, one way after the other, on fresh engines of both roles: round-robin and session-hash send to the engines
themselves; the others go through the router: least-loaded (the cache weighs nothing), approximate (no events: what was
sent) and exact (events). Times are the engines' own; the emulators' lag, and how late
the load client was, say whether the machine kept up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import numpy as np

from paceline.clock import WallClock
from paceline.local.load import LoadClient, LoadOptions, RequestResult
from paceline.traces.agents import AgentShape, generate_agents
from paceline.traces.prompts import PromptMaker
from paceline.traces.record import Trace, TraceRequest
from tests.bench.agreement import engine_counter
from tests.bench.bench_effect import PROFILE, TTFT_SECONDS, scale_for
from tests.bench.stack import SERVED_NAME, Stack, running_stack

LAG = "paceline_emulator_lag_seconds_total"
PROMPT_TOKENS = "vllm:prompt_tokens_total"
CACHED_TOKENS = "vllm:prompt_tokens_cached_total"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to find an engine for a request."""

    name: str
    events: bool = True
    cache_percent: int = 100
    pick: Callable[[int, TraceRequest], int] | None = None
    """Engine by the request and its number, where no router is asked."""


WAYS = (
    Way("round-robin", pick=lambda number, _: number),
    Way("session-hash", pick=lambda number, request: random.Random(request.session or number).getrandbits(32)),
    Way("least-loaded", cache_percent=0),
    Way("approximate", events=False),
    Way("exact"),
)


async def replay(trace: Trace, way: Way, stack: Stack, speed: float) -> list[RequestResult]:
    """Send every request at its time."""
    parts: dict[str, list[TraceRequest]] = {}
    for number, request in enumerate(trace.requests):
        engines = stack.engine_urls
        url = stack.router_url if way.pick is None else engines[way.pick(number, request) % len(engines)]
        parts.setdefault(url, []).append(request)
    prompts = PromptMaker()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        clients = (
            LoadClient(
                LoadOptions(url=url, model=SERVED_NAME, speed=speed), session=session, prompts=prompts,
                clock=WallClock(),
            ).run(requests)
            for url, requests in parts.items()
        )  # fmt: skip
        return [result for report in await asyncio.gather(*clients) for result in report.requests]


def measure(trace: Trace, way: Way, engines: int, speed: float) -> dict[str, float]:
    with (
        tempfile.TemporaryDirectory(prefix="effect-") as folder,
        running_stack(
            Path(folder), prefill=0, decode=engines, profile=PROFILE.name, speed=speed, kv_events=way.events,
            tokenizer="bytes", cache_percent=way.cache_percent,
        ) as stack,
    ):  # fmt: skip
        results = asyncio.run(replay(trace, way, stack, speed))
        asked, cached, lag = (
            sum(engine_counter(url, name) for url in stack.engine_urls) for name in (PROMPT_TOKENS, CACHED_TOKENS, LAG)
        )
    ttft = np.array([result.ttft * speed for result in results if result.ttft is not None])
    return {
        "requests": len(results),
        "failed": sum(result.error is not None for result in results),
        "hits": cached / asked,
        "ttft p50": float(np.quantile(ttft, 0.5)),
        "ttft p90": float(np.quantile(ttft, 0.9)),
        "goodput": float((ttft <= TTFT_SECONDS).sum()) / len(results),
        "client late p99": float(np.quantile([result.late for result in results], 0.99)) * speed,
        "emulators' lag": lag * speed,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=40.0, help="of the trace")
    parser.add_argument("--speed", type=float, default=0.5)
    parser.add_argument("--load", type=float, default=0.3, help="as in bench_effect")
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    trace = generate_agents(AgentShape(), seconds=flags.seconds, rng=random.Random(1))
    scale = scale_for(flags.load, flags.engines, trace, cached=True)
    shape = replace(AgentShape(), requests_per_second=AgentShape().requests_per_second * scale)
    trace = generate_agents(shape, seconds=flags.seconds, rng=random.Random(1))
    print(f"{flags.engines} engines at {flags.load:.0%}, speed {flags.speed}, {len(trace.requests)} requests")
    rows = {}
    for way in WAYS:
        rows[way.name] = row = measure(trace, way, flags.engines, flags.speed)
        print(f"{way.name:14}" + "  ".join(f"{name} {value:.3g}" for name, value in row.items()), flush=True)
    if flags.json:
        flags.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if any(row["failed"] for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
