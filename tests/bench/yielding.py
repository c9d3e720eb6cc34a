"""How long a burst of interactive requests waits when batch work has filled the engines.

Run: ``python -m tests.bench.yielding``. Batch streams fill two emulated engines up to what they must leave free; then
comes a burst that is larger than that. Measured twice: with batch streams that give way, and with such as never do,
because they have a stop string. Prints a row of JSON for each: TTFT of the burst, when the last batch stream ended
after it, and how many streams paused.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import urllib.request
from pathlib import Path

import uvloop

from tests.bench.stack import Stack, running_stack
from tests.series import total

PROFILE = "qwen3-32b-h200-tp2"
ENGINES = 2
MAX_RUNNING = 16
BATCH = ENGINES * (MAX_RUNNING * 7 // 8)
"""As many as batch work may have at once."""
BURST = 20
BATCH_TOKENS, BURST_TOKENS = 800, 50
PROMPT_TOKENS = 500
HEAD = (
    "POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    "x-paceline-priority: {}\r\ncontent-length: {}\r\n\r\n"
)


async def one(port: int, number: int, tokens: int, priority: int, begun: asyncio.Event, **more: object) -> float:
    """One stream to its end. Returns its TTFT in seconds. Raises RuntimeError where it does not come out whole."""
    prompt = [number + 1, *[101] * (PROMPT_TOKENS - 1)]
    fixed = {"model": "bench", "temperature": 0, "ignore_eos": True, "stream": True}
    body = json.dumps({**fixed, "max_tokens": tokens, "prompt": prompt, **more}).encode()
    began, first, events, line = time.monotonic(), 0.0, 0, b""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(HEAD.format(priority, len(body)).encode() + body)
        async for line in reader:
            if line.startswith(b"data: {"):
                first = first or time.monotonic()
                events += 1
                begun.set()
    finally:
        writer.close()
    if events < tokens:
        raise RuntimeError(f"{events} events of {tokens}, and at the end {line[:200]!r}")
    return first - began


def pauses(stack: Stack) -> int:
    """That ended with the stream going on, so far."""
    with urllib.request.urlopen(f"{stack.admin_url}/metrics", timeout=10) as page:
        return round(total(page.read().decode(), "paceline_router_yields_total", outcome="resumed"))


async def measure(stack: Stack, *, gives_way: bool) -> dict[str, object]:
    """One burst into engines full of batch work; the row."""
    port, before = int(stack.router_url.rpartition(":")[2]), pauses(stack)
    more: dict[str, object] = {} if gives_way else {"stop": ["\N{SNOWMAN}"]}
    events = [asyncio.Event() for _ in range(BATCH)]
    batch = [
        asyncio.create_task(one(port, number, BATCH_TOKENS, -10, begun, **more)) for number, begun in enumerate(events)
    ]
    await asyncio.gather(*(begun.wait() for begun in events))
    came = time.monotonic()
    waits = sorted(
        await asyncio.gather(*(one(port, 100 + number, BURST_TOKENS, 0, asyncio.Event()) for number in range(BURST)))
    )
    await asyncio.gather(*batch)
    return {
        "batch_gives_way": gives_way,
        "burst_ttft_seconds": {"p50": round(waits[BURST // 2], 3), "max": round(waits[-1], 3)},
        "batch_ended_after_seconds": round(time.monotonic() - came, 2),
        "pauses": pauses(stack) - before,
    }


def main() -> int:
    """Parse arguments, run, write the report as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path("out/bench/yielding"))
    given = parser.parse_args()
    rows = []
    for gives_way in (False, True):
        with running_stack(
            given.out, prefill=0, decode=ENGINES, profile=PROFILE, speed=given.speed,
            max_running_per_engine=MAX_RUNNING,
        ) as stack:  # fmt: skip
            rows.append(uvloop.run(measure(stack, gives_way=gives_way)))
        print(json.dumps(rows[-1]), flush=True)
    (given.out / "report.json").write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
