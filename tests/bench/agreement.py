"""Whether the simulator tells the truth about the HTTP emulators: one load, the same engines, both ways.

``python -m tests.bench.agreement [--prefill 5 --decode 2 --speed 0.5 ...]`` starts emulated engines behind
the real router, replays a slice of a trace against them, simulates the same slice with the same counts, and compares
times to the first token and between tokens. Prompts share no prefixes unless ``--prefixes`` is given. Exit code 1 if a
median or a p90 is further apart than 10%.

Both sides follow the same engine model, so what differs is routing, queueing and the cost of HTTP itself. The result
counts only while the emulators keep up with their modelled time: their lag is part of it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import numpy as np
from numpy.typing import NDArray

from paceline.api.wire import Role
from paceline.clock import WallClock
from paceline.local.load import LoadClient, LoadOptions, RequestResult
from paceline.policy.scaling.profiles import get_profile
from paceline.simulator.policies.static import StaticPolicy
from paceline.simulator.router import RouterSettings
from paceline.simulator.settings import SimSettings
from paceline.simulator.simulation import Simulation
from paceline.simulator.workload import Workload
from paceline.traces.generate import ConversationShape, generate_conversations
from paceline.traces.mooncake import read_mooncake
from paceline.traces.prompts import PromptMaker
from paceline.traces.record import Trace
from tests.bench.stack import SERVED_NAME, Stack, running_stack
from tests.series import total

TOLERANCE = 0.10
"""Relative difference of medians and p90 up to which the two agree."""
QUANTILES = (0.5, 0.9)
LAG = "paceline_emulator_lag_seconds_total"
ROOT = Path(__file__).resolve().parents[2]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Case:
    """What is run both ways."""

    trace: Trace
    profile: str
    prefill: int
    decode: int
    speed: float = 1.0
    """How many times as fast the HTTP side runs. Its times are reported in the engines' own time."""
    ttft_seconds: float = 2.0
    itl_seconds: float = 0.025
    """Above it decode engines get no more streams."""


@dataclass(frozen=True, slots=True)
class Side:
    """Times in seconds, one entry a request, in the order of the trace."""

    ttft: FloatArray
    itl: FloatArray
    """NaN for an answer of one token."""


@dataclass(frozen=True, slots=True)
class Measured(Side):
    """The HTTP side, and how well it kept up."""

    lag_seconds: float
    """Of all emulators: how far they fell behind their modelled time."""
    late_seconds: float
    """By how much the client sent its p99 request late, in the engines' time."""


def simulated(case: Case) -> Side:
    """The slice in virtual time."""
    counts = {Role.PREFILL: case.prefill, Role.DECODE: case.decode}
    settings = SimSettings(
        profile=get_profile(case.profile),
        gpus_per_engine=1,
        router=RouterSettings(ttft_seconds=case.ttft_seconds, itl_seconds=case.itl_seconds),
        bounds={role: (count, count) for role, count in counts.items()},
        gpu_budget=case.prefill + case.decode,
    )
    score = Simulation(Workload(case.trace), StaticPolicy(case.prefill, case.decode), settings).run().score
    single = np.array([request.output_tokens == 1 for request in case.trace.requests])
    return Side(np.array(score.ttft), np.where(single, np.nan, score.itl))


def measured(case: Case, folder: Path) -> Measured:
    """The slice over HTTP. Raises RuntimeError if a request fails: there is nothing to compare then."""
    with running_stack(
        folder,
        prefill=case.prefill,
        decode=case.decode,
        profile=case.profile,
        speed=case.speed,
        itl_milliseconds=round(1000 * case.itl_seconds),
        kv_events=any(request.blocks for request in case.trace.requests),
    ) as stack:
        results = asyncio.run(_replay(case, stack))
        lag = sum(engine_counter(url, LAG) for url in stack.engine_urls)
    failed = [result.error for result in results if result.error is not None]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(results)} requests failed, the first: {failed[0]}")
    return Measured(
        ttft=_seconds([result.ttft for result in results], case.speed),
        itl=_seconds([result.itl for result in results], case.speed),
        lag_seconds=lag * case.speed,
        late_seconds=float(np.quantile([result.late for result in results], 0.99)) * case.speed,
    )


async def _replay(case: Case, stack: Stack) -> list[RequestResult]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        client = LoadClient(
            LoadOptions(url=stack.router_url, model=SERVED_NAME, speed=case.speed),
            session=session,
            prompts=PromptMaker(),
            clock=WallClock(),
        )
        return (await client.run(case.trace.requests)).requests


def _seconds(times: Sequence[float | None], speed: float) -> FloatArray:
    return np.array([np.nan if time is None else time * speed for time in times])


def engine_counter(url: str, name: str) -> float:
    """A counter of an engine, over all its labels."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as page:
        return total(page.read().decode(), name)


def ratios(simulation: Side, http: Side) -> dict[str, float]:
    """Simulated over measured, of each quantile of both times."""
    pairs = {"TTFT": (simulation.ttft, http.ttft), "ITL": (simulation.itl, http.itl)}
    return {
        f"{name} p{100 * quantile:.0f}": float(np.nanquantile(ours, quantile) / np.nanquantile(theirs, quantile))
        for name, (ours, theirs) in pairs.items()
        for quantile in QUANTILES
    }


def slice_of(*, start_minute: float, minutes: float, time_scale: float, prefixes: bool, seed: int) -> Trace:
    """A part of the conversation trace, its arrivals spread over the recorder's ticks of 3 s."""
    folder = Path(os.environ.get("PACELINE_DATA", ROOT.parent / "shared" / "data"))
    path = folder / "traces" / "mooncake_conversation_trace.jsonl.gz"
    if path.exists():
        trace = read_mooncake(path).spread_ticks().window(start_seconds=60 * start_minute, seconds=60 * minutes)
    else:
        sys.stdout.write(f"{path} is not there: a generated load takes its place\n")
        trace = generate_conversations(ConversationShape(), seconds=60 * minutes, rng=random.Random(seed))
    trace = trace.at_rate(time_scale)
    return trace if prefixes else without_prefixes(trace)


def without_prefixes(trace: Trace) -> Trace:
    """The same load with prompts that share nothing."""
    return replace(trace, requests=tuple(replace(request, blocks=()) for request in trace.requests))


def utilisation(case: Case) -> float:
    """Share of the prefill engines' time that the prompts take, with nothing cached."""
    profile = get_profile(case.profile)
    work = sum(profile.prefill_seconds(request.input_tokens) for request in case.trace.requests)
    return work / (case.prefill * max(1.0, case.trace.requests[-1].arrival_seconds))


def show(case: Case, simulation: Side, http: Measured) -> bool:
    """Print the comparison. True if everything is within the tolerance."""
    write = sys.stdout.write
    write(
        f"{len(case.trace.requests)} requests of {case.trace.name} in {case.trace.requests[-1].arrival_seconds:.0f} s, "
        f"{case.profile}, {case.prefill} prefill and {case.decode} decode engines, "
        f"prefill {100 * utilisation(case):.0f}% busy; emulators at {case.speed:g} times real time, "
        f"{http.lag_seconds:.2f} s behind in all; client late by {1000 * http.late_seconds:.0f} ms (p99)\n"
    )
    good = True
    for name, ratio in ratios(simulation, http).items():
        quantile = int(name.rpartition("p")[2]) / 100
        ours, theirs = (
            1000 * float(np.nanquantile(getattr(side, name.split()[0].lower()), quantile))
            for side in (simulation, http)
        )
        fine = abs(ratio - 1) <= TOLERANCE
        good = good and fine
        write(
            f"{name}: simulated {ours:8.1f} ms, measured {theirs:8.1f} ms, ratio {ratio:.3f}{'' if fine else '  !'}\n"
        )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="qwen3-32b-h200-tp2")
    parser.add_argument("--prefill", type=int, default=5)
    parser.add_argument("--decode", type=int, default=2)
    parser.add_argument("--start-minute", type=float, default=10.0)
    parser.add_argument("--minutes", type=float, default=1.3)
    parser.add_argument("--time-scale", type=float, default=1.0, help="how many times as fast requests arrive")
    parser.add_argument("--speed", type=float, default=0.5, help="how many times as fast the HTTP side runs")
    parser.add_argument("--prefixes", action="store_true", help="with the trace's shared prefixes")
    parser.add_argument("--save", type=Path, help="write the times of each request here, for a closer look")
    arguments = parser.parse_args()
    trace = slice_of(
        start_minute=arguments.start_minute,
        minutes=arguments.minutes,
        time_scale=arguments.time_scale,
        prefixes=arguments.prefixes,
        seed=0,
    )
    case = Case(trace, arguments.profile, arguments.prefill, arguments.decode, arguments.speed)
    simulation = simulated(case)
    with tempfile.TemporaryDirectory(prefix="paceline-agreement-") as folder:
        http = measured(case, Path(folder))
    if arguments.save is not None:
        np.savez(arguments.save, sim_ttft=simulation.ttft, sim_itl=simulation.itl, ttft=http.ttft, itl=http.itl)
    return 0 if show(case, simulation, http) else 1


if __name__ == "__main__":
    sys.exit(main())
