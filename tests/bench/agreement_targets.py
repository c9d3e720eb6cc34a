"""Whether the live system and the simulator come to the same numbers of engines: one trace, the planner in both.

``python -m tests.bench.agreement_targets [--minutes 6 --speed 2]`` serves a load with emulated engines, the real router
and the local runtime's planner, and simulates the same requests with the planner that the simulator has. Compared is
what each asks for, role by role, second by second, with up to six engines of a role. Exit code 1 unless they agree
within one engine for 95% of the time.

How long engines take to start is measured on the live side and given to the simulator.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paceline.api.v1alpha1 import ModelDeployment, load
from paceline.api.wire import Role
from paceline.clock import WallClock
from paceline.local.load import LoadClient, LoadOptions
from paceline.local.plan import ClusterOptions
from paceline.local.planning import LocalPlanner
from paceline.planner.settings import scaling_settings
from paceline.policy.scaling.profiles import get_profile
from paceline.simulator.cluster import Cluster, Targets
from paceline.simulator.policies.planner import PlannerPolicy
from paceline.simulator.router import RouterSettings
from paceline.simulator.settings import Objective, PodHabits, ScrapeHabits, SimSettings
from paceline.simulator.simulation import Simulation
from paceline.simulator.telemetry import Sample
from paceline.simulator.workload import Workload
from paceline.traces.prompts import PromptMaker
from paceline.traces.record import Trace
from paceline.traces.shift import Mix, generate_shift
from tests.bench.flips import SAMPLE, local_cluster

READING = Mix(requests_per_second=8.0, prompt_tokens=6_000, answer_tokens=30)
WRITING = Mix(requests_per_second=2.5, prompt_tokens=6_000, answer_tokens=1_000)
NEEDED = 0.95
"""Share of the time within one engine."""


@dataclass(frozen=True)
class Course:
    """What was asked for: at these times, prefill and decode engines."""

    times: Sequence[float]
    counts: Sequence[tuple[int, int]]

    def at(self, second: float) -> tuple[int, int]:
        return self.counts[max(0, bisect_right(self.times, second) - 1)]


class Noting(PlannerPolicy):
    """The simulator's planner, with what it asks for written down."""

    def __init__(self, initial: Targets, settings: SimSettings) -> None:
        super().__init__(initial, settings)
        self.times, self.counts = [0.0], [(initial.prefill, initial.decode)]

    def decide(self, seen: Sequence[Sample], cluster: Cluster) -> None:
        super().decide(seen, cluster)
        assert self.decision is not None
        self.times.append(cluster.now)
        engines = self.decision.engines
        self.counts.append((engines.prefill, engines.decode))


def deployment() -> ModelDeployment:
    """The sample with room for so many engines that agreeing within one of them says something."""
    text = SAMPLE.read_text().replace("maxReplicas: 2", "maxReplicas: 6").replace("gpuBudget: 6", "gpuBudget: 16")
    return load(text, SAMPLE.name)


def simulated(trace: Trace, interval: float, starts: Sequence[float]) -> Course:
    scaling = scaling_settings(deployment())
    middle = statistics.median(starts) if starts else 30.0
    settings = SimSettings(
        profile=get_profile("qwen3-32b-h100-tp2"),
        gpus_per_engine=2,
        router=RouterSettings(ttft_seconds=scaling.ttft_seconds),
        objective=Objective(ttft_seconds=scaling.ttft_seconds, itl_seconds=scaling.itl_seconds),
        pods=PodHabits(start_p50_seconds=middle, start_p95_seconds=1.2 * middle),
        scrape=ScrapeHabits(interval_seconds=interval, delay_seconds=0.0),
        bounds={role: (pool.min_engines, pool.max_engines) for role, pool in scaling.pools.items()},
        scaling=scaling,
        planner_interval_seconds=interval,
        gpu_budget=scaling.gpu_budget or 2 * scaling.most_engines,
    )
    policy = Noting(Targets(1, 1), settings)
    Simulation(Workload(trace), policy, settings).run()
    return Course(policy.times, policy.counts)


async def served(trace: Trace, speed: float, folder: Path) -> tuple[Course, list[float]]:
    """The live side, and the start times of its engines in their own seconds."""
    md = deployment()
    times, counts, made = [0.0], [(1, 1)], {}
    starts: dict[str, float] = {}
    async with local_cluster(md, ClusterOptions(speed=speed, port=0), folder) as (cluster, session):
        clock = WallClock()
        begin = clock.monotonic()
        planner = LocalPlanner(
            md, cluster, clock, speed=speed, profile=cluster.plan.prefill_profile, folder=folder, said=lambda _: None
        )

        async def note() -> None:
            while True:
                await asyncio.sleep(0.1)
                now = (clock.monotonic() - begin) * speed
                asked = planner.planner.counts
                found = (asked[Role.PREFILL], asked[Role.DECODE])
                if found != counts[-1]:
                    times.append(now)
                    counts.append(found)
                for view in cluster.engines:
                    made.setdefault(view.status.name, now)
                    if view.status.phase == "ready":
                        starts.setdefault(view.status.name, now - made[view.status.name])

        tasks = [asyncio.create_task(planner.run()), asyncio.create_task(note())]
        client = LoadClient(
            LoadOptions(cluster.url, md.spec.model.client_name, speed=speed),
            session=session,
            prompts=PromptMaker(),
            clock=clock,
        )
        result = await client.run(trace.requests)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    failed = [one.error for one in result.requests if one.error is not None]
    assert not failed, failed[:3]
    return Course(times, counts), [seconds for seconds in starts.values() if seconds > 0]


def compare(live: Course, simulation: Course, seconds: float) -> tuple[float, float]:
    """Shares of the time in which both roles are within one engine of each other, and equal."""
    moments = [float(second) for second in range(int(seconds))]
    apart = [max(abs(a - b) for a, b in zip(live.at(second), simulation.at(second), strict=True)) for second in moments]
    return sum(one <= 1 for one in apart) / len(apart), sum(one == 0 for one in apart) / len(apart)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--speed", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    seconds = 60 * arguments.minutes
    trace = generate_shift(seconds=seconds, rng=random.Random(arguments.seed), first=READING, then=WRITING)
    interval = float(deployment().spec.scaling.interval_seconds)
    with tempfile.TemporaryDirectory(prefix="paceline-targets-") as folder:
        live, starts = asyncio.run(served(trace, arguments.speed, Path(folder)))
    simulation = simulated(trace, interval, starts)
    within, equal = compare(live, simulation, seconds)
    write = sys.stdout.write
    for name, course in (("live", live), ("simulated", simulation)):
        changes = [
            f"{time:.0f} s {prefill}:{decode}"
            for index, (time, (prefill, decode)) in enumerate(zip(course.times, course.counts, strict=True))
            if index == 0 or course.counts[index - 1] != (prefill, decode)
        ]
        write(f"{name:10} {', '.join(changes)}\n")
    write(
        f"{len(trace.requests)} requests in {seconds:.0f} s at {arguments.speed:g} times real time: within one engine "
        f"{within:.1%} of the time, equal {equal:.1%}\n"
    )
    return 0 if within >= NEEDED else 1


if __name__ == "__main__":
    sys.exit(main())
