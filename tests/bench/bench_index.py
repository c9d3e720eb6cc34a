"""What a cache-aware decision costs: names of blocks, lookup, placement; and what cache events cost to take in.

Run: ``python -m tests.bench.bench_index``; ``--json FILE`` writes the figures. Each fleet holds a system prompt on
every engine, half of each asked prompt on four engines and most of it on one, among other content. Times are CPU times
of one thread: on a shared machine, wall times say how long others held the core.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable
from pathlib import Path

import msgspec

from paceline.api.wire import Role
from paceline.policy.routing.block_hashes import ChainMemory
from paceline.policy.routing.cost import RequestView, Settings
from paceline.policy.routing.engine_cache import EngineCache
from paceline.policy.routing.fleet import EngineView
from paceline.policy.routing.kv_events import BlockHash, BlockRemoved, BlockStored, EventBatch
from paceline.policy.routing.placement import choose
from paceline.policy.routing.prefix_index import PrefixIndex, Spreader, Tier
from paceline.policy.scaling.profiles import get_profile
from paceline_worker.router.prefixes.batches import read_batch
from paceline_worker.router.prefixes.prompt import Prompt
from tests.bench.peers import install
from tests.processes import rss_bytes

BLOCK = 16
FLEETS = (64, 256, 1024)
PROMPTS = (2_048, 32_768, 131_072)
SYSTEM_TOKENS = 1_024
OTHER_BLOCKS = 1_500
"""Blocks of other content on each engine."""
ORACLE = "ai-dynamo-runtime==1.6.1"
ORACLE_ENGINES = 64
ORACLE_DOCUMENTS = 24
ORACLE_STEPS = 600
ROUNDS = 200
"""Decisions of each kind, spread over the different prompts."""
PROMPT_VARIETY = 20
spread = Spreader(str).spread
WEIGHTS = [1.0] * len(Tier)
PROFILE = get_profile("qwen3-32b-h200-tp2")
SETTINGS = Settings(disaggregated=True, local_prefill_tokens=256, max_running_per_engine=256)


class FilledFleet:
    """Engines, half of them for prefill, with what they hold."""

    def __init__(self, engines: int, rng: random.Random) -> None:
        self.index = PrefixIndex(max_entries=100_000_000)
        self.caches: list[EngineCache] = []
        self.rng = rng

        def join(bit: int) -> EngineCache:
            self.caches.append(EngineCache(self.index, bit, model="bench", sent_capacity=0))
            return self.caches[-1]

        for _ in range(engines):
            self.index.join(join)
        self.system = tokens(rng, SYSTEM_TOKENS)
        for cache in self.caches:
            store(cache, self.system)
            store(cache, tokens(rng, OTHER_BLOCKS * BLOCK))
        self.views = [
            EngineView(
                name=str(number), role=Role.PREFILL if number % 2 else Role.DECODE, running=rng.randrange(60),
                context_tokens=rng.randrange(300_000), prefill_backlog_seconds=rng.random(), kv_usage=rng.random() / 2,
            )
            for number in range(engines)
        ]  # fmt: skip

    def prompt(self, length: int) -> array[int]:
        """A prompt of which four engines hold a half and one of them nine tenths."""
        asked = self.system + tokens(self.rng, length - SYSTEM_TOKENS)
        holders = self.rng.sample(self.caches, 4)
        for cache in holders:
            store(cache, asked[: length // 2])
        store(holders[0], asked[: length * 9 // 10])
        return asked


def tokens(rng: random.Random, count: int) -> array[int]:
    return array("I", rng.randbytes(4 * count))


def store(cache: EngineCache, content: array[int]) -> None:
    blocks = len(content) // BLOCK
    event = BlockStored(
        block_hashes=[random.getrandbits(64) for _ in range(blocks)],
        parent_block_hash=None,
        token_ids=list(content[: blocks * BLOCK]),
        block_size=BLOCK,
        medium="GPU",
    )
    for _ in cache.apply([event]):
        pass


def look_up(fleet: FilledFleet, prompt: Prompt) -> dict[str, int]:
    """Tokens that each engine holds, as the router finds them."""
    found = spread(fleet.index.match(prompt.names(BLOCK)), WEIGHTS, BLOCK)
    return {name: held.worth for name, held in found.items()}


def timed(work: Callable[[], object]) -> float:
    """CPU microseconds."""
    start = time.thread_time()
    work()
    return (time.thread_time() - start) * 1e6


def quantiles(values: list[float]) -> dict[str, float]:
    ranked = sorted(values)
    return {
        "min": round(ranked[0], 1),
        "median": round(statistics.median(ranked), 1),
        "p99": round(ranked[min(len(ranked) - 1, int(0.99 * len(ranked)))], 1),
        "max": round(ranked[-1], 1),
    }


def decisions(fleet: FilledFleet, length: int) -> dict[str, dict[str, float]]:
    """Times of the parts and of the whole, in microseconds."""
    prompts = [fleet.prompt(length) for _ in range(PROMPT_VARIETY)]
    memory = ChainMemory(100_000)
    times: dict[str, list[float]] = {"names, new": [], "names, seen": [], "lookup": [], "placement": [], "decision": []}
    for _ in range(ROUNDS // PROMPT_VARIETY):
        for content in prompts:
            new = Prompt(content.tobytes(), exact=True, tokens=length, model="bench", memory=ChainMemory(1))
            times["names, new"].append(timed(lambda new=new: new.names(BLOCK)))  # type: ignore[misc]

            def decide(prompt: Prompt) -> None:
                request = RequestView(prompt_tokens=length, match=look_up(fleet, prompt))
                choose(request, fleet.views, SETTINGS, PROFILE, 0.5)

            again = Prompt(content.tobytes(), exact=True, tokens=length, model="bench", memory=memory)
            again.names(BLOCK)
            seen = Prompt(content.tobytes(), exact=True, tokens=length, model="bench", memory=memory)
            times["names, seen"].append(timed(lambda seen=seen: seen.names(BLOCK)))  # type: ignore[misc]
            times["lookup"].append(timed(lambda seen=seen: look_up(fleet, seen)))  # type: ignore[misc]
            view = RequestView(prompt_tokens=length, match=look_up(fleet, seen))
            times["placement"].append(
                timed(lambda view=view: choose(view, fleet.views, SETTINGS, PROFILE, 0.5))  # type: ignore[misc]
            )
            fresh = Prompt(content.tobytes(), exact=True, tokens=length, model="bench", memory=ChainMemory(1))
            times["decision"].append(timed(lambda fresh=fresh: decide(fresh)))  # type: ignore[misc]
    return {name: quantiles(values) for name, values in times.items()}


def intake(rng: random.Random, *, rounds: int = 5, batches: int = 1_000, blocks: int = 64) -> dict[str, object]:
    """Blocks a second from bytes off the wire to the index: stores, and as many removals once the caches are full."""
    speeds = []
    for _ in range(rounds):
        index = PrefixIndex(max_entries=100_000_000)
        caches: list[EngineCache] = []

        def join(bit: int, index: PrefixIndex = index, caches: list[EngineCache] = caches) -> EngineCache:
            caches.append(EngineCache(index, bit, model="bench", sent_capacity=0))
            return caches[-1]

        for _ in range(64):
            index.join(join)
        payloads, stored = [], 0
        old: list[list[BlockHash]] = []
        for number in range(batches):
            names: list[BlockHash] = [rng.getrandbits(64) for _ in range(blocks)]
            event = BlockStored(names, None, list(tokens(rng, blocks * BLOCK)), BLOCK, medium="GPU", group_idx=0)
            removed = [BlockRemoved([name], "GPU", 0) for name in old[number - 640]] if number >= 640 else []
            old.append(names)
            stored += blocks
            payloads.append(msgspec.msgpack.encode(EventBatch(1.0, [*removed, event], 0)))
        gc.collect()
        start = time.thread_time()
        for number, payload in enumerate(payloads):
            take(caches[number % 64], payload)
        speeds.append(stored / (time.thread_time() - start))
    return {
        "blocks stored a second": {
            "min": round(min(speeds)), "median": round(statistics.median(speeds)), "max": round(max(speeds))
        },
        "of which are removed again": round((batches - 640) / batches, 2),
    }  # fmt: skip


def take(cache: EngineCache, payload: bytes) -> None:
    batch = read_batch(payload)
    assert batch is not None
    for _ in cache.apply(batch.events):
        pass


def against_oracle(rng: random.Random, folder: Path) -> dict[str, object]:
    """The index beside a public radix tree, in an environment of its own: the same stores, evictions and questions."""
    if not install(folder, [ORACLE]):
        return {"left out": f"{ORACLE} could not be installed"}
    index, caches = PrefixIndex(max_entries=100_000_000), list[int]()

    def join(bit: int) -> EngineCache:
        caches.append(bit)
        return EngineCache(index, bit, model="bench", sent_capacity=0)

    for _ in range(ORACLE_ENGINES):
        index.join(join)
    steps: list[list[object]] = []
    ours: list[dict[str, int]] = []
    times: list[float] = []
    documents = [_names(rng, PROMPTS[1] // BLOCK) for _ in range(ORACLE_DOCUMENTS)]
    for number, names in enumerate(documents[1:], 1):
        shared = rng.randrange(1, len(names))
        names[:shared] = documents[rng.randrange(number)][:shared]  # every document branches off another one
    alone = [max(_common(names, other) for other in documents if other is not names) for names in documents]
    for _ in range(ORACLE_STEPS):
        which, engine = rng.randrange(len(documents)), rng.randrange(ORACLE_ENGINES)
        names, bit = documents[which], caches[engine]
        length, holds = rng.randrange(1, len(names)), index.told_by(bit)
        held = next((place for place, name in enumerate(names) if not holds(name)), len(names))
        keep = max(length, alone[which])
        if keep < held:  # engines evict from the tail, and never what something else builds on
            index.release(Tier.GPU, bit, names[keep:held])
            steps.append(["remove", engine, names[keep:held][::-1]])
        elif held < length:
            index.hold(Tier.GPU, bit, names[held:length])
            steps.append(["store", engine, names[held - 1] if held else None, names[held:length]])
        asked = rng.choice(documents)
        answer: list[dict[str, int]] = []
        times.append(timed(lambda asked=asked, answer=answer: answer.append(_depths(index, asked))))  # type: ignore[misc]
        ours += answer
        steps.append(["match", asked])
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(steps, file)
        file.flush()
        script = Path(__file__).with_name("radix_oracle.py")
        done = subprocess.run([folder / "bin" / "python", script, file.name], stdout=subprocess.PIPE, check=True)
    theirs = json.loads(done.stdout)
    return {
        "questions": len(ours),
        "answers that differ": sum(one != other for one, other in zip(ours, theirs["found"], strict=True)),
        "lookup µs, ours": quantiles(times),
        f"lookup µs, {ORACLE}": quantiles(theirs["times"]),
    }


def _names(rng: random.Random, count: int) -> list[int]:
    return [rng.getrandbits(60) for _ in range(count)]


def _depths(index: PrefixIndex, names: list[int]) -> dict[str, int]:
    return {engine: held.tokens for engine, held in spread(index.match(names), WEIGHTS, 1).items()}


def _common(names: list[int], other: list[int]) -> int:
    return next((place for place, (one, two) in enumerate(zip(names, other, strict=True)) if one != two), len(names))


def bytes_a_block(rng: random.Random, *, engines: int = 64, blocks: int = 8_000, shared: int = 0) -> float:
    """Resident bytes for each entry; ``shared`` of the engines hold the same content."""
    index = PrefixIndex(max_entries=100_000_000)
    caches: list[EngineCache] = []

    def join(bit: int) -> EngineCache:
        caches.append(EngineCache(index, bit, model="bench", sent_capacity=0))
        return caches[-1]

    for _ in range(engines):
        index.join(join)
    same = tokens(rng, blocks * BLOCK)
    gc.collect()
    before = rss_bytes(os.getpid())
    for number, cache in enumerate(caches):
        store(cache, same if number < shared else tokens(rng, blocks * BLOCK))
    gc.collect()
    return (rss_bytes(os.getpid()) - before) / index.entries


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--venv", type=Path, default=Path("out/bench-venv"), help="where the oracle is installed")
    arguments = parser.parse_args()
    rng = random.Random(5)
    print("beside a public radix tree", flush=True)
    oracle = against_oracle(random.Random(7), arguments.venv)
    print(json.dumps(oracle, indent=1), flush=True)
    print("event intake", flush=True)
    result: dict[str, object] = {"oracle": oracle, "bytes a block": round(bytes_a_block(rng), 1)}
    result["bytes a block, held by 32 of 64 engines"] = round(bytes_a_block(rng, shared=32), 1)
    result["intake"] = intake(rng)
    print(json.dumps(result, indent=1), flush=True)
    table: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    print("\nµs, median / p99 (max)")
    for engines in FLEETS:
        fleet = FilledFleet(engines, rng)
        gc.collect()
        gc.freeze()
        for length in PROMPTS:
            found = decisions(fleet, length)
            table.setdefault(str(engines), {})[str(length)] = found
            cells = "  ".join(
                f"{name} {one['median']:,.0f} / {one['p99']:,.0f} ({one['max']:,.0f})" for name, one in found.items()
            )
            print(f"{engines:5} engines, {length:7,} tokens: {cells}", flush=True)
        gc.unfreeze()
    result["decisions"] = table
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
