"""Goodput when more comes than can be served: over HTTP on emulated engines, and in the simulator by the same rules.

Run: ``python -m tests.bench.overload``. Prints a table: offered load in multiples of the capacity, requests a second
within the objective, and what refusing the others took of the router's CPU. Requests come in open loop, each with a
prompt of its own; the load of each row begins before the measured time, so that it is a lasting one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from paceline.api.wire import Late
from tests.bench.stack import ITL_MILLISECONDS, TTFT_MILLISECONDS, Stack, running_stack
from tests.processes import cpu_seconds
from tests.simulator.test_overload import CAPACITY, OUTPUT_TOKENS, PROMPT_TOKENS, goodput

TIMES = (0.5, 0.9, 1.0, 1.5, 2.0, 4.0, 10.0)
PROFILE = "qwen3-32b-h200-tp2"
PREFILL, DECODE = 2, 3
LIMIT_BYTES = 1 << 20
HEAD = (
    b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n"
)
BEFORE = b'{"model":"bench","max_tokens":%d,"ignore_eos":true,"stream":true,"prompt":[' % OUTPUT_TOKENS + b"%d,%d,%d,%d"
AFTER = b",101" * (PROMPT_TOKENS - 4) + b"]}"
"""A body, made cheaply: the client shares its cores with what it measures."""


@dataclass(slots=True)
class Row:
    """What became of the requests that came in the measured time."""

    times: float
    good: int = 0
    late: int = 0
    """Answered outside the objective."""
    statuses: Counter[int] = field(default_factory=Counter)
    without_retry_after: int = 0
    refusal_seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


async def one(port: int, number: int, speed: float, row: Row | None) -> None:
    """One stream, and whether it met the objective; ``row`` is None before the measured time."""
    body = BEFORE % tuple(number >> shift & 255 for shift in (24, 16, 8, 0)) + AFTER
    began, first, last, events = time.monotonic(), 0.0, 0.0, 0
    seen = Row(0) if row is None else row
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=LIMIT_BYTES)
        try:
            writer.write(HEAD % len(body) + body)
            status = int((await reader.readline()).split()[1])
            seen.statuses[status] += 1
            if status != 200:
                seen.refusal_seconds.append(time.monotonic() - began)
                seen.without_retry_after += b"retry-after:" not in await reader.read()
                return
            async for line in reader:
                if line.startswith(b"data: {"):
                    last = time.monotonic()
                    first = first or last
                    events += 1
        finally:
            writer.close()
    except (OSError, IndexError) as error:
        seen.failures.append(f"{type(error).__name__}: {error}")
        return
    if events < OUTPUT_TOKENS:
        seen.failures.append(f"{events} events of {OUTPUT_TOKENS}")
        return
    in_time = (first - began) * 1000 <= TTFT_MILLISECONDS / speed
    itl = (last - first) * 1000 / (OUTPUT_TOKENS - 1)
    if in_time and itl <= ITL_MILLISECONDS / speed:
        seen.good += 1
    else:
        seen.late += 1


async def offer(stack: Stack, times: float, speed: float, warm: float, seconds: float, first: int) -> dict[str, object]:
    """Offer one rate for ``warm + seconds``; the row of the table."""
    rng, row, port = random.Random(times), Row(times), int(stack.router_url.rpartition(":")[2])
    rate = times * CAPACITY * speed
    begin = time.monotonic()
    at, tasks, cpu, number = begin, set[asyncio.Task[None]](), 0.0, first
    while at < begin + warm + seconds:
        at += rng.expovariate(rate)
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        if at >= begin + warm and not cpu:
            cpu = cpu_seconds(stack.router_pid)
        number += 1
        task = asyncio.create_task(one(port, number, speed, row if at >= begin + warm else None))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    cpu = cpu_seconds(stack.router_pid) - cpu
    await asyncio.gather(*tasks)
    waits = sorted(row.refusal_seconds) or [0.0]
    return {
        "times_capacity": times,
        "offered_per_second": round(rate, 1),
        "goodput_per_second": round(row.good / seconds, 2),
        "served_late_per_second": round(row.late / seconds, 2),
        "refused_share": round(1 - row.statuses[200] / max(1, row.statuses.total()), 3),
        "statuses": dict(row.statuses),
        "refused_without_retry_after": row.without_retry_after,
        "seconds_to_a_refusal": {"p50": round(waits[len(waits) // 2], 4), "max": round(waits[-1], 3)},
        "router_cpu_share": round(cpu / seconds, 3),
        "failures": len(row.failures),
        "first_failures": row.failures[:3],
        "last_number": number,
    }


async def run(stack: Stack, times: list[float], speed: float, warm: float, seconds: float) -> list[dict[str, object]]:
    """All rates, one after the other."""
    rows: list[dict[str, object]] = []
    number = 0
    for one_of in times:
        row = await offer(stack, one_of, speed, warm, seconds, number)
        number = int(str(row.pop("last_number")))
        print(json.dumps(row), flush=True)
        rows.append(row)
        await asyncio.sleep(2.0)
    return rows


def main() -> int:
    """Parse arguments, run, write the report as JSON. Exits non-zero when the goodput at the highest rate is low."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--times", type=float, nargs="+", default=list(TIMES), help="multiples of the capacity")
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--warm", type=float, default=25.0, help="seconds of each rate before the measured ones")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--late", type=Late, choices=list(Late), default=Late.LIMIT)
    parser.add_argument("--out", type=Path, default=Path("out/bench/overload"))
    given = parser.parse_args()
    simulated = {times: round(given.speed * goodput(times, given.late), 2) for times in given.times}
    print(json.dumps({"simulated_goodput_per_second": simulated}), flush=True)
    with running_stack(
        given.out, prefill=PREFILL, decode=DECODE, profile=PROFILE, speed=given.speed, late=given.late
    ) as stack:
        rows = uvloop.run(run(stack, given.times, given.speed, given.warm, given.seconds))
    report = {"simulated": simulated, "rows": rows, "late": given.late}
    (given.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    rates = [float(str(row["goodput_per_second"])) for row in rows]
    return 0 if rates[-1] >= 0.9 * max(rates) else 1


if __name__ == "__main__":
    sys.exit(main())
