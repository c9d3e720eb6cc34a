"""How fast the simulator is, and how its cost grows: requests per second of one core, memory, scaling in both sizes.

Run it on an idle machine: ``python -m tests.bench.bench_simulator [--large] [--profile]``. The conversation trace comes
from PACELINE_DATA or ../shared/data; without it a generated load of the same shape takes its place, and it says so.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import random
import resource
import time
from pathlib import Path

from paceline.api.wire import Role
from paceline.policy.scaling.profiles import get_profile
from paceline.simulator.policies.static import StaticPolicy
from paceline.simulator.router import RouterSettings
from paceline.simulator.settings import SimSettings
from paceline.simulator.simulation import Run, Simulation
from paceline.simulator.workload import Workload
from paceline.traces.generate import ConversationShape, generate_conversations
from paceline.traces.mooncake import read_mooncake
from paceline.traces.record import Trace

TARGET_RATE = 10_000
"""Simulated requests a second on one core, conversation trace, 8 engines."""
MILLION_SECONDS = 300
MILLION_BYTES = 2 * 10**9
ROOT = Path(__file__).resolve().parents[2]


def conversation() -> Trace:
    folder = Path(os.environ.get("PACELINE_DATA", ROOT.parent / "shared" / "data"))
    path = folder / "traces" / "mooncake_conversation_trace.jsonl.gz"
    if path.exists():
        return read_mooncake(path)
    print(f"{path} is not there: a generated load takes its place")
    return generate_conversations(ConversationShape(), seconds=3600, rng=random.Random(0))


def simulate(workload: Workload, prefill: int, decode: int) -> tuple[Run, float]:
    """The run, and the processor seconds it took."""
    engines = prefill + decode
    settings = SimSettings(
        profile=get_profile("qwen3-32b-h200-tp2"),
        gpus_per_engine=2,
        router=RouterSettings(ttft_seconds=2.0),
        bounds={Role.PREFILL: (1, engines), Role.DECODE: (1, engines)},
        gpu_budget=2 * engines,
    )
    simulation = Simulation(workload, StaticPolicy(prefill, decode), settings)
    began = time.process_time()
    run = simulation.run()
    return run, time.process_time() - began


def show(name: str, run: Run, seconds: float) -> float:
    rate = len(run.workload) / seconds
    done = run.score.completed
    print(
        f"{name}: {len(run.workload):,} requests in {seconds:.2f} s of processor time ({run.wall_seconds:.2f} s of "
        f"wall time): {rate:,.0f}/s, {done:,} completed"
    )
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="a million requests on a thousand engines too")
    parser.add_argument("--profile", action="store_true", help="where the time goes")
    arguments = parser.parse_args()
    trace = conversation()
    rates = [show("8 engines", *simulate(Workload(trace), 6, 2)) for _ in range(3)]
    print(f"best of three: {max(rates):,.0f}/s, target {TARGET_RATE:,}/s")
    for scale in (2, 4, 8):
        show(
            f"{8 * scale} engines, {scale} times the rate",
            *simulate(Workload(trace, rate_scale=scale), 6 * scale, 2 * scale),
        )
    if arguments.profile:
        profile = cProfile.Profile()
        profile.runcall(simulate, Workload(trace), 6, 2)
        pstats.Stats(profile).sort_stats("tottime").print_stats(20)
    if arguments.large:
        scale = -(-1_000_000 // len(trace.requests))
        run, seconds = simulate(Workload(trace, rate_scale=scale), 750, 250)
        show("1,000 engines", run, seconds)
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"targets: {MILLION_SECONDS} s and {MILLION_BYTES / 1e9:.0f} GB; peak memory {peak / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
