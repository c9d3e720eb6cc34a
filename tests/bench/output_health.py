"""What it costs to listen to answers, how often a load that is well makes an engine stand out, and how soon one that is
not well is out.

Run: ``python -m tests.bench.output_health [cost|load|faults] [--seeds 100]``. ``cost``: the CPU time of the relay for
each event of a stream, with and without a listener. ``load``: the loads of ``tests/policy/health/test_output.py`` with
many seeds. ``faults``: six emulated engines behind a router, each fault of what an engine says, one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import tempfile
import time
from pathlib import Path

from paceline.api import wire
from tests.policy.health.test_output import LOADS, Bench
from tests.worker.router.wellness.parts import events, incoming, listening, place, relay
from tests.worker.router.wellness.scene import all_well, asked, scene, seen_out

EVENTS = 512
ROUNDS = 100
SIZES = (2, 4, 8, 16)
ANSWERS = 4000
FAULTS = (
    ("repetition", True, "one-token"), ("phrase", True, "repetition"), ("script", True, "script"),
    ("endless", True, "length"), ("slow", 400.0, "slow"),
)  # fmt: skip


async def cost() -> None:
    """CPU time an event; the least of the rounds, which take turns: what is above it is the machine's other work."""
    draw = random.Random(1)
    kinds = {
        "English": [f"{draw.choice(WORDS)} " for _ in range(EVENTS)],
        "Chinese to an English prompt": [draw.choice("今天天气很好我们去河边的公园散步") for _ in range(EVENTS)],
    }
    for with_ids, way in ((True, "streams that can be resumed"), (False, "other streams")):
        for name, texts in kinds.items():
            pieces = events(texts, [draw.randrange(1000) for _ in texts])
            took: dict[bool, list[float]] = {True: [], False: []}
            shared = {hears: listening(hears=hears) for hears in took}
            gc.disable()
            for _ in range(ROUNDS):
                for hears, times in took.items():
                    begun = time.process_time_ns()
                    await relay(shared[hears], incoming(), place(), pieces, ids=with_ids)
                    times.append((time.process_time_ns() - begun) / EVENTS)
            gc.enable()
            without, heard = min(took[False]), min(took[True])
            print(f"{way}, {name}: {without:.0f} ns an event, {heard:.0f} with a listener: {heard - without:+.0f} ns")


WORDS = ("time", "year", "people", "way", "day", "thing", "world", "life", "hand", "part", "place", "case", "week")


def load(seeds: int) -> None:
    """Engines that stood out although the load is the same for all."""
    total = answers = 0
    for each in LOADS:
        for engines in SIZES:
            found = 0
            for seed in range(seeds):
                draw = random.Random(f"{each.__name__} {engines} {seed}")
                bench = Bench(*(f"e{number}" for number in range(engines)))
                for _ in range(ANSWERS // engines):
                    for name in bench.names:
                        bench.give(name, *each(draw))
                    found += len(bench.look())
                answers += bench.answers
            total += found
            print(f"{each.__name__.strip('_')}, {engines} engines: {found} in {seeds * ANSWERS} answers", flush=True)
    print(f"{total} times an engine stood out in {answers} answers of engines that are all alike")


async def faults() -> None:
    """Requests and seconds until an engine is out, and that it is back once it is well."""
    for fault, value, reason in FAULTS:
        most = 2000 if fault == "endless" else 110
        # A client of a slow engine looks away for longer than others.
        hold, slow = (30, wire.WatchMode.ACT) if fault == "slow" else (2, wire.WatchMode.OFF)
        with tempfile.TemporaryDirectory() as folder:
            async with scene(
                Path(folder), engines=6, least_tokens=1, most_tokens=most, hold_seconds=hold, slow=slow
            ) as here:
                await here.load(asked(here, 300), most=400)
                await here.fault("engine-1", **{fault: value})
                begun = time.monotonic()
                took = await here.load(seen_out(here, {"engine-1": reason}), most=20_000)
                seconds = time.monotonic() - begun
                await here.fault("engine-1")
                await here.load(all_well(here), most=10_000)
                bad = here.asked - here.statuses[200]
                after = f"{took} requests to six engines in {seconds:.1f} s"
                print(f"{fault}: out after {after}; {bad} of {here.asked} failed", flush=True)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["cost", "load", "faults"], choices=["cost", "load", "faults"])
    parser.add_argument("--seeds", type=int, default=100)
    flags = parser.parse_args()
    if "cost" in flags.what:
        asyncio.run(cost())
    if "load" in flags.what:
        load(flags.seeds)
    if "faults" in flags.what:
        asyncio.run(faults())


if __name__ == "__main__":
    main()
