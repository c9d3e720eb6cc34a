"""Random loads that vary in every way that is known to hurt, and the planner against the best static fleet on each.

``python -m tests.bench.sweep [--seeds 3] [--first-seed 0] [--only bursts,ramp] [--json OUT]``. No load may leave the
planner more than 10% below the goodput per GPU-hour of the best static fleet; those that do are printed with the
command that runs one of them again, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

import msgspec

from paceline.simulator.report import PolicyReport, policy_report
from paceline.simulator.tuning import best_run
from paceline.simulator.workload import Workload
from paceline.traces.record import Trace, TraceRequest
from tests.bench.gates_runs import settings

SECONDS: Final = 2400.0
WORST: Final = 0.9
"""Of the best static fleet's goodput per GPU-hour."""
SIGMA: Final = 0.9
"""Of the logarithm of lengths."""

Mix = tuple[float, float, float]
"""(requests a second, median prompt, median output) at a time."""
Shape = Callable[[random.Random], Callable[[float], Mix]]


def _base(rng: random.Random) -> Mix:
    return rng.uniform(2, 6), rng.uniform(2000, 6000), rng.uniform(150, 400)


def steady(rng: random.Random) -> Callable[[float], Mix]:
    """Nothing changes."""
    mix = _base(rng)
    return lambda _: mix


def bursts(rng: random.Random) -> Callable[[float], Mix]:
    """Several times the rate for a while, at random."""
    rate, prompt, output = _base(rng)
    factor, seconds = rng.uniform(2, 5), rng.uniform(20, 120)
    begins = [rng.uniform(0, SECONDS) for _ in range(rng.randint(3, 6))]
    return lambda at: (rate * (factor if any(0 <= at - one < seconds for one in begins) else 1), prompt, output)


def ramp(rng: random.Random) -> Callable[[float], Mix]:
    """Up to several times the rate."""
    rate, prompt, output = _base(rng)
    factor, begin, seconds = rng.uniform(2, 5), rng.uniform(300, 1200), rng.uniform(200, 900)
    return lambda at: (rate / 2 * (1 + (factor - 1) * min(1.0, max(0.0, (at - begin) / seconds))), prompt, output)


def decline(rng: random.Random) -> Callable[[float], Mix]:
    """Down to a fraction."""
    up = ramp(rng)
    return lambda at: up(SECONDS - at)


def step(rng: random.Random) -> Callable[[float], Mix]:
    """At once, and back."""
    rate, prompt, output = _base(rng)
    factor, begin, end = rng.uniform(1.5, 4), rng.uniform(300, 900), rng.uniform(1200, 2100)
    return lambda at: (rate * (factor if begin <= at < end else 1), prompt, output)


def inversion(rng: random.Random) -> Callable[[float], Mix]:
    """Long prompts and short answers, then the reverse."""
    rate, prompt, output = _base(rng)
    factor, period = rng.uniform(4, 10), rng.uniform(300, 900)

    def mix(at: float) -> Mix:
        return (rate, prompt / factor, output * factor) if int(at // period) % 2 else (rate, prompt, output)

    return mix


def long_context_waves(rng: random.Random) -> Callable[[float], Mix]:
    """Prompts grow several times as long and shrink again."""
    rate, prompt, output = _base(rng)
    factor, period, phase = rng.uniform(2, 4), rng.uniform(400, 1200), rng.uniform(0, 6)
    return lambda at: (rate / 2, prompt * factor ** math.sin(math.tau * at / period + phase), output)


def tides(rng: random.Random) -> Callable[[float], Mix]:
    """A day in little."""
    rate, prompt, output = _base(rng)
    depth, period, phase = rng.uniform(0.4, 0.9), rng.uniform(900, 2400), rng.uniform(0, 6)
    return lambda at: (rate * (1 + depth * math.sin(math.tau * at / period + phase)), prompt, output)


def answers_grow(rng: random.Random) -> Callable[[float], Mix]:
    """Reasoning is turned on: the same prompts, much longer answers."""
    rate, prompt, output = _base(rng)
    factor, begin, end = rng.uniform(3, 8), rng.uniform(300, 900), rng.uniform(1200, 2400)
    return lambda at: (rate, prompt, output * (factor if begin <= at < end else 1))


def unrest(rng: random.Random) -> Callable[[float], Mix]:
    """Everything changes by random factors every few minutes."""
    rate, prompt, output = _base(rng)
    period = rng.uniform(120, 480)
    factors = [(rng.uniform(0.4, 1.8), rng.uniform(0.4, 1.8), rng.uniform(0.4, 3)) for _ in range(30)]

    def mix(at: float) -> Mix:
        rates, prompts, outputs = factors[int(at // period) % len(factors)]
        return rate * rates, prompt * prompts, output * outputs

    return mix


SHAPES: Final[Mapping[str, Shape]] = {
    shape.__name__.replace("_", "-"): shape
    for shape in (
        steady, bursts, ramp, decline, step, inversion, long_context_waves, tides, answers_grow, unrest,
    )
}  # fmt: skip


def workload(name: str, seed: int) -> Workload:
    """Poisson arrivals at a rate that changes, with log-normal lengths that change too."""
    rng = random.Random(f"{seed}/{name}")
    mix = SHAPES[name](rng)
    requests: list[TraceRequest] = []
    at = 0.0
    while True:
        rate, prompt, output = mix(at)
        at += rng.expovariate(rate)
        if at >= SECONDS:
            return Workload(Trace(f"{name}, seed {seed}", tuple(requests)), seed=seed)
        requests.append(
            TraceRequest(
                arrival_seconds=at,
                input_tokens=_length(rng, prompt, 100_000),
                output_tokens=_length(rng, output, 8_000),
            )
        )


def _length(rng: random.Random, median: float, most: int) -> int:
    return max(1, min(most, round(median * rng.lognormvariate(0, SIGMA))))


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One load."""

    load: str
    seed: int
    planner: PolicyReport
    static: PolicyReport

    @property
    def ratio(self) -> float:
        """Goodput per GPU-hour, the planner's to the best static fleet's."""
        return self.planner.goodput_per_gpu_hour / self.static.goodput_per_gpu_hour


def outcome(name: str, seed: int) -> Outcome:
    """Run both."""
    load = workload(name, seed)
    planner, static = (policy_report(best_run(policy, load, settings())) for policy in ("planner", "static-best"))
    return Outcome(load=name, seed=seed, planner=planner, static=static)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(SHAPES), help="loads")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    began = time.monotonic()
    outcomes = []
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    with ProcessPoolExecutor(arguments.jobs) as pool:
        jobs = [pool.submit(outcome, name, seed) for seed in seeds for name in arguments.only.split(",")]
        for job in jobs:
            one = job.result()
            outcomes.append(one)
            print(
                f"{one.load:>20} seed {one.seed}: goodput/GPU-hour {one.ratio:.2f} of static-best's; attained "
                f"{one.planner.feasible_attainment:.1%} ({one.static.feasible_attainment:.1%}), GPU-hours "
                f"{one.planner.gpu_hours:.1f} ({one.static.gpu_hours:.1f}), lost {one.planner.lost}",
                flush=True,
            )
    bad = [one for one in outcomes if one.ratio < WORST or one.planner.lost]
    print(f"{len(outcomes)} loads, {len(bad)} below {WORST:.0%} of static-best, {time.monotonic() - began:.0f} s")
    for one in bad:
        print(f"  python -m tests.bench.sweep --only {one.load} --first-seed {one.seed} --seeds 1")
    if arguments.json is not None:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(outcomes)) + b"\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
