"""What cache-aware placement is worth: the production placement and index against simpler routers, in virtual time.

Run: ``python -m tests.bench.bench_effect [--engines 8] [--minutes 30] [--trace agents]``.

Prefill engines of one profile serve a trace's prompts first come, first served, each with an exact LRU of its KV
blocks; decode engines are taken to have room. The router sees each engine's events when a prefill ends. A request that
would wait longer than 60 s is refused, and counts as a miss. Load: prefill work of the trace with nothing cached, over
that of the engines; of agents, whose prompts are nine tenths repetition, with all cached that came before.

Routers: round-robin, least-loaded, session-hash, approximate (this router without events; and four replicas of it, each
of which knows only what it sent itself), exact (with events, so that any number of replicas know the same), and exact
with the router's own queue in its order, without and with the split of cold and warm engines.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import sys
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from paceline.api.wire import Role
from paceline.policy.routing.backlog import Backlog
from paceline.policy.routing.cost import RequestView, Settings
from paceline.policy.routing.fleet import EngineView
from paceline.policy.routing.placement import choose
from paceline.policy.routing.pools import split
from paceline.policy.routing.prefix_index import PrefixIndex, Spreader, Tier
from paceline.policy.routing.sent import SentBlocks
from paceline.policy.scaling.profiles import get_profile
from paceline.policy.waiting import WaitingLine
from paceline.simulator.cache import PrefixCache
from paceline.simulator.request import SimRequest
from paceline.simulator.workload import Workload
from paceline.traces.agents import AgentShape, generate_agents
from paceline.traces.record import Trace
from paceline_worker.router.settings import AHEAD_BATCHES, BATCH_TOKENS
from tests.bench.agreement import slice_of

PROFILE = get_profile("qwen3-32b-h200-tp2")
TTFT_SECONDS = 2.0
PATIENCE_SECONDS = 60.0
AHEAD_SECONDS = AHEAD_BATCHES * PROFILE.prefill_seconds(BATCH_TOKENS)
"""How long before it is done an engine gets its next prompt from the router's queue: the router's own setting."""
LOOK_SECONDS = 0.01
"""The router looks no more often."""
LOADS = (0.4, 0.8, 1.1)
ROUTERS = (
    "round-robin", "least-loaded", "session-hash", "approximate", "approximate x 4", "exact", "exact + queue",
    "exact + split",
)  # fmt: skip
WEIGHTS = [1.0] * len(Tier)
DECODE = EngineView(name="decode", role=Role.DECODE)
BUCKETS = [float(round(16 * 2 ** (step / 2))) for step in range(33)]


class Holder:
    """One engine's side of the index."""

    def __init__(self, index: PrefixIndex, bit: int, capacity: int) -> None:
        self.bit = bit
        self.sent = SentBlocks(index, bit, capacity=capacity)

    def __len__(self) -> int:
        return 0

    def give_up(self, count: int) -> int:
        return 0


@dataclass(slots=True)
class Engine:
    """One prefill engine."""

    number: int
    cache: PrefixCache
    holders: list[Holder]
    """One for each replica of the router."""
    queue: deque[SimRequest] = field(default_factory=deque)
    backlog: Backlog = field(default_factory=Backlog)
    """What the router expects of the requests that it gave to it."""
    busy: bool = False

    def view(self, now: float) -> EngineView:
        return EngineView(name=str(self.number), role=Role.PREFILL, prefill_backlog_seconds=self.backlog.left(now))


@dataclass(slots=True)
class Outcome:
    """What one router made of one load."""

    ttft: list[float] = field(default_factory=list)
    refused: int = 0
    cached: int = 0
    prompt: int = 0

    def row(self) -> dict[str, float]:
        ranked, offered = sorted(self.ttft), len(self.ttft) + self.refused
        return {
            "hit rate": self.cached / self.prompt,
            "ttft p50": ranked[len(ranked) // 2],
            "ttft p90": ranked[int(0.9 * len(ranked))],
            "ttft p99": ranked[int(0.99 * len(ranked))],
            "goodput": sum(one <= TTFT_SECONDS for one in ranked) / offered,
            "refused": self.refused / offered,
        }


class Cluster:
    """Prefill engines behind one kind of router, in virtual time."""

    def __init__(self, engines: int, router: str, block_size: int, seed: int) -> None:
        self.router, self.size = router, block_size
        self.rng = random.Random(seed)
        replicas = 4 if router == "approximate x 4" else 1
        self.indexes = [PrefixIndex(max_entries=100_000_000) for _ in range(replicas)]
        self.spreader = Spreader(str)
        capacity = PROFILE.kv_capacity_tokens // block_size
        self.engines: list[Engine] = []
        for number in range(engines):
            made: list[Holder] = []
            for index in self.indexes:

                def join(bit: int, index: PrefixIndex = index, made: list[Holder] = made) -> Holder:
                    made.append(Holder(index, bit, capacity))
                    return made[-1]

                index.join(join)
            self.engines.append(Engine(number, PrefixCache(capacity), made))
        self.settings = Settings(
            disaggregated=True, local_prefill_tokens=0, max_running_per_engine=1_000_000, split_seconds=TTFT_SECONDS
        )
        self.line: WaitingLine[SimRequest] = WaitingLine(age_bound_seconds=PATIENCE_SECONDS)
        self.counts = [0] * (len(BUCKETS) + 1)
        self.events: list[tuple[float, int, Engine | None, SimRequest | None]] = []
        """Prefills that end; without an engine: it is time to look at the queue."""
        self.alarms = 0
        self.alarm_at = float("-inf")
        """When the queue is looked at next, if nothing happens before."""
        self.served = 0
        self.outcome = Outcome()

    def run(self, workload: Workload) -> Outcome:
        for request in workload:
            while self.events and self.events[0][0] <= request.arrived:
                self.finish(*heapq.heappop(self.events))
            if self.router in ("exact + queue", "exact + split"):
                self.line.push(
                    request, arrived=request.arrived, deadline=request.arrived + TTFT_SECONDS,
                    service_seconds=PROFILE.prefill_seconds(request.prompt),
                )  # fmt: skip
                self.serve_line(request.arrived)
            else:
                self.give(self.pick(request, request.arrived), request, request.arrived)
        while self.events:
            self.finish(*heapq.heappop(self.events))
        return self.outcome

    def serve_line(self, now: float) -> None:
        while self.line:
            wait = min(one.backlog.left(now) for one in self.engines) - AHEAD_SECONDS
            if wait > 0:
                self.look_at(now, now + max(LOOK_SECONDS, wait))
                return
            request = self.line.pop(now)
            if request is None:
                return
            self.give(self.pick(request, now), request, now)

    def look_at(self, now: float, at: float) -> None:
        if not now < self.alarm_at <= at:
            self.alarm_at = at
            self.alarms += 1
            heapq.heappush(self.events, (at, -self.alarms, None, None))

    def pick(self, request: SimRequest, now: float) -> Engine:
        engines, router = self.engines, self.router
        self.served += 1
        if router == "round-robin":
            return engines[self.served % len(engines)]
        if router == "least-loaded":
            return min(engines, key=lambda one: (one.backlog.left(now), self.rng.random()))
        if router == "session-hash":
            key = request.blocks[min(1, len(request.blocks) - 1)] if request.blocks else request.number
            return engines[random.Random(key).randrange(len(engines))]
        for one in engines:
            self.holder(one, request).sent.expire(now, 100_000)
        match = self.match(request)
        if router == "exact + split":
            self.note(request.prompt - max(match.values(), default=0))
        view = RequestView(prompt_tokens=request.prompt, match=match)
        placement = choose(
            view, [DECODE, *(one.view(now) for one in engines)], self.settings, PROFILE, self.rng.random()
        )
        if placement is None or placement.prefill is None:
            raise AssertionError("every prompt is computed on a prefill engine here")
        return engines[int(placement.prefill.name)]

    def match(self, request: SimRequest) -> dict[str, int]:
        blocks = request.blocks[: (request.prompt - 1) // self.size]
        index = self.indexes[request.number % len(self.indexes)]
        found = self.spreader.spread(index.match(blocks), WEIGHTS, self.size)
        return {name: held.tokens for name, held in found.items()}

    def holder(self, engine: Engine, request: SimRequest) -> Holder:
        """Of the replica that the request came to."""
        return engine.holders[request.number % len(self.indexes)]

    def note(self, uncached: int) -> None:
        place = next((index for index, bound in enumerate(BUCKETS) if uncached <= bound), len(BUCKETS))
        self.counts[place] += 1
        found = split(BUCKETS, self.counts, PROFILE) if self.served % 100 == 0 else None
        if found is not None:
            self.settings = Settings(
                disaggregated=True, local_prefill_tokens=0, max_running_per_engine=1_000_000,
                split_seconds=TTFT_SECONDS, cold_tokens=found.cold_tokens, cold_share=found.cold_share,
            )  # fmt: skip

    def give(self, engine: Engine, request: SimRequest, now: float) -> None:
        held = self.match(request).get(str(engine.number), 0)
        engine.backlog.add(request.number, PROFILE.prefill_seconds(request.prompt - held, held), now)
        if self.router.startswith("approximate"):
            self.holder(engine, request).sent.add(request.blocks, now + 1800)
        elif self.router.startswith("exact"):
            self.holder(engine, request).sent.add(request.blocks, now + engine.backlog.left(now) + 10)
        engine.queue.append(request)
        if not engine.busy:
            self.start(engine, now)

    def start(self, engine: Engine, now: float) -> None:
        while engine.queue:
            request = engine.queue.popleft()
            if now - request.arrived > PATIENCE_SECONDS:
                self.outcome.refused += 1
                engine.backlog.done(request.number, now)
                continue
            whole = (request.prompt - 1) // self.size
            held = min(
                engine.cache.match(request.blocks, min(whole, len(request.blocks)))[0] * self.size, request.prompt
            )
            self.outcome.cached += held
            self.outcome.prompt += request.prompt
            engine.busy = True
            seconds = PROFILE.prefill_seconds(request.prompt - held, held)
            heapq.heappush(self.events, (now + seconds, request.number, engine, request))
            return
        engine.busy = False

    def finish(self, now: float, _number: int, engine: Engine | None, request: SimRequest | None) -> None:
        if engine is None or request is None:
            self.serve_line(now)
            return
        self.outcome.ttft.append(now + PROFILE.transfer_seconds(request.prompt) - request.arrived)
        engine.backlog.done(request.number, now)
        gone = engine.cache.touch(request.blocks)
        if self.router.startswith("exact"):
            index, bit = self.indexes[0], engine.holders[0].bit
            index.hold(Tier.GPU, bit, request.blocks)
            for part in gone:
                index.release(Tier.GPU, bit, part)
        self.start(engine, now)
        self.serve_line(now)


def best_possible(engines: int, workload: Workload) -> float:
    """Hit rate of one cache as large as all together: every request finds what any engine could hold."""
    size = workload.block_size
    cache = PrefixCache(engines * (PROFILE.kv_capacity_tokens // size))
    cached = prompt = 0
    for request in workload:
        whole = min((request.prompt - 1) // size, len(request.blocks))
        cached += cache.match(request.blocks, whole)[0] * size
        prompt += request.prompt
        cache.touch(request.blocks)
    return cached / prompt


def scale_for(load: float, engines: int, trace: Trace, *, cached: bool = False) -> float:
    """How many copies of the trace make the load. ``cached``: by what is left to compute where nothing is forgotten."""
    workload = Workload(trace, rate_scale=1.0, seed=1)
    known: set[int] = set()
    work = 0.0
    for request in workload:
        whole = min((request.prompt - 1) // workload.block_size, len(request.blocks)) if cached else 0
        held = next((place for place in range(whole) if request.blocks[place] not in known), whole)
        work += PROFILE.prefill_seconds(request.prompt - held * workload.block_size, held * workload.block_size)
        known.update(request.blocks)
    return load * engines * workload.seconds / work


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--trace", choices=("conversation", "agents"), default="conversation")
    parser.add_argument("--loads", type=float, nargs="+", default=LOADS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    agents = arguments.trace == "agents"
    if agents:
        trace = generate_agents(AgentShape(), seconds=60 * arguments.minutes, rng=random.Random(1))
    else:
        trace = slice_of(start_minute=0, minutes=arguments.minutes, time_scale=1, prefixes=True, seed=1)
    result: dict[str, object] = {}
    for load in arguments.loads:
        workload = Workload(trace, rate_scale=scale_for(load, arguments.engines, trace, cached=agents), seed=1)
        best = best_possible(arguments.engines, workload)
        rows = {}
        print(f"\n{arguments.engines} engines at {load:.0%}, {len(workload)} requests; best possible hits {best:.1%}")
        print(f"{'':16}{'hits':>7}{'p50':>8}{'p90':>8}{'p99':>8}{'goodput':>9}{'refused':>9}")
        for router in ROUTERS:
            row = Cluster(arguments.engines, router, workload.block_size, 3).run(workload).row()
            rows[router] = row
            print(
                f"{router:16}{row['hit rate']:7.1%}{row['ttft p50']:8.2f}{row['ttft p90']:8.2f}{row['ttft p99']:8.2f}"
                f"{row['goodput']:9.1%}{row['refused']:9.2%}",
                flush=True,
            )
        result[f"{load:.0%}"] = {"best possible": best, "requests": len(workload), "routers": rows}
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
