"""Whether the planner is good enough: its cost against the best static fleet, an oracle and what people use.

``python -m tests.bench.gates [--only steady,varying,bursts,baselines] [--seeds 3] [--json OUT] [--write]``. Prints a
table for each load and PASS or FAIL for each gate, and exits with 1 if one failed. A gate compares runs of the same
seed and holds by the median of the seeds: single runs of one policy lie 5% apart by nothing but chance. Policies
that are tuned by a grid are run with the first seed only. ``--write`` puts it all into
docs/reference/scaling-results.md. Everything is seeded: the same code gives the same figures. Runs are kept under
build/gates, so only what has changed is simulated again.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from paceline.simulator.report import PolicyReport
from tests.bench.gates_page import page, table
from tests.bench.gates_runs import (
    ROOT,
    Kept,
    Load,
    azure,
    conversation,
    kept_run,
    run,
    servegen_day,
    shaped,
)

PAGE: Final = ROOT / "docs" / "reference" / "scaling-results.md"
ATTAINED: Final = 0.95
STATIC_HOURS: Final = 1.10
ORACLE_HOURS: Final = 1.35
ORACLE_HOURS_AIM: Final = 1.15
BURST_ORACLE_HOURS: Final = 1.7
STATIC_GOODPUT: Final = 1.25
BASELINES: Final = ("hpa", "keda", "threshold", "throughput", "decode-tps")

STEADY: Final = (conversation(1), conversation(2), conversation(4), conversation(8), azure(8))
VARYING: Final = (
    shaped("inversion", 2, "prompts a quarter and outputs twelve times as long in every other 10 minutes"),
    shaped("ramp", 1, "rising to five times that within 10 minutes"),
    servegen_day(0.5),
)
BURSTS: Final = (shaped("bursts", 1, "four times that for 60 s in every 10 minutes"),)
PARTS: Final[Mapping[str, Sequence[Load]]] = {"steady": STEADY, "varying": VARYING, "bursts": BURSTS}
BASELINE_PART: Final = "baselines"


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that must hold."""

    load: str
    what: str
    values: tuple[float, ...]
    """One for each seed."""
    bound: float
    at_least: bool = False
    aim: bool = False
    """Not a gate but the aim beyond it: missing it fails nothing."""

    each: bool = False
    """Whether it must hold for every seed."""

    @property
    def value(self) -> float:
        """What counts: the median, or the worst."""
        if self.each:
            return min(self.values) if self.at_least else max(self.values)
        return statistics.median(self.values)

    @property
    def holds(self) -> bool:
        """Whether the value is within the bound."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    @property
    def verdict(self) -> str:
        """As it is printed."""
        if self.aim:
            return "aim reached" if self.holds else "aim missed"
        return "PASS" if self.holds else "FAIL"


@dataclass(frozen=True, slots=True)
class Result:
    """All runs on one load, and the gates that are made of them."""

    load: Load
    part: str
    runs: Mapping[str, Sequence[Kept]]
    """By policy, one for each seed."""
    gates: Sequence[Gate]


def gates_of(load: Load, part: str, runs: Mapping[str, Sequence[Kept]]) -> list[Gate]:
    """What must hold on a load, as far as the runs for it are there; that of ``planner`` must be."""
    name = load.name
    planner = [kept.report for kept in runs["planner"]]

    def ratios(other: str, of: Callable[[PolicyReport], float]) -> tuple[float, ...]:
        """The planner's figures to those of another policy with the same seed."""
        pairs = zip(planner, [kept.report for kept in runs[other]], strict=False)
        return tuple(of(ours) / of(theirs) for ours, theirs in pairs)

    attained = tuple(report.feasible_attainment for report in planner)
    gates = [
        Gate(load=name, what="attained of feasible", values=attained, bound=ATTAINED, at_least=True),
        Gate(load=name, what="lost", values=tuple(float(report.lost) for report in planner), bound=0, each=True),
    ]
    if part == "steady" and "static-best" in runs:
        hours = ratios("static-best", _hours)
        gates.append(Gate(load=name, what="GPU-hours to static-best", values=hours, bound=STATIC_HOURS))
    if part == "varying" and "static-best" in runs:
        gain = ratios("static-best", _goodput)
        gates.append(
            Gate(load=name, what="goodput/GPU-hour to static-best", values=gain, bound=STATIC_GOODPUT, at_least=True)
        )
    if part in ("varying", "bursts") and "oracle" in runs:
        bound = ORACLE_HOURS if part == "varying" else BURST_ORACLE_HOURS
        hours = ratios("oracle", _hours)
        gates.append(Gate(load=name, what="GPU-hours to oracle", values=hours, bound=bound))
        if name in ("inversion", "ramp"):
            gates.append(Gate(load=name, what="GPU-hours to oracle", values=hours, bound=ORACLE_HOURS_AIM, aim=True))
    for baseline in BASELINES:
        if baseline not in runs:
            continue
        others = [kept.report for kept in runs[baseline]]
        if statistics.median(other.feasible_attainment for other in others) >= ATTAINED:
            hours = ratios(baseline, _hours)
            gates.append(Gate(load=name, what=f"GPU-hours to {baseline}", values=hours, bound=1.0))
        else:
            ahead = tuple(
                ours.feasible_attainment - theirs.feasible_attainment
                for ours, theirs in zip(planner, others, strict=False)
            )
            gates.append(Gate(load=name, what=f"attainment above {baseline}", values=ahead, bound=0.0, at_least=True))
    return gates


def _hours(report: PolicyReport) -> float:
    return report.gpu_hours


def _goodput(report: PolicyReport) -> float:
    return report.goodput_per_gpu_hour


def needed(part: str, load: Load, *, baselines: bool) -> list[str]:
    """Policies that the gates compare on a load of a part."""
    names = ["planner", "static-best"]
    if part != "steady":
        names.append("oracle")
    return [*names, *BASELINES] if baselines and load.baselines else names


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="steady,varying,bursts", help=f"parts: {', '.join(PARTS)}, {BASELINE_PART}")
    parser.add_argument("--load", help="only the loads whose name begins so")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    parser.add_argument("--kept", action="store_true", help="simulate nothing: what is kept")
    parser.add_argument("--seeds", type=int, default=3, help="runs of a policy on a load; a day, and a grid, once")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    arguments = parser.parse_args()
    parts = arguments.only.split(",")
    baselines = BASELINE_PART in parts
    chosen = [part for part in PARTS if part in parts] or list(PARTS)
    loads = [(part, load) for part in chosen for load in PARTS[part] if load.name.startswith(arguments.load or "")]
    wanted = {load.name: needed(part, load, baselines=baselines) for part, load in loads}

    def seeds(load: Load, policy: str) -> Sequence[int]:
        most = range(1 if policy in BASELINES else min(arguments.seeds, load.most_seeds))
        return [seed for seed in most if kept_run(load, policy, seed) is not None] if arguments.kept else most

    if arguments.kept:
        wanted = {load.name: [policy for policy in wanted[load.name] if 0 in seeds(load, policy)] for _, load in loads}
        loads = [(part, load) for part, load in loads if "planner" in wanted[load.name]]
    began = time.monotonic()
    runs: dict[str, dict[str, list[Kept]]] = {}
    with ProcessPoolExecutor(arguments.jobs) as pool:
        jobs = [
            pool.submit(_job, part, load.name, policy, seed)
            for part, load in loads
            for policy in wanted[load.name]
            for seed in seeds(load, policy)
        ]
        for job in jobs:
            name, policy, kept = job.result()
            runs.setdefault(name, {}).setdefault(policy, []).append(kept)
    results = [Result(load, part, runs[load.name], gates_of(load, part, runs[load.name])) for part, load in loads]
    for result in results:
        print(table(result))
    failed = [gate for result in results for gate in result.gates if not gate.holds and not gate.aim]
    print(f"{len(failed)} gates failed; {time.monotonic() - began:.0f} s")
    if arguments.json is not None:
        document = [{"load": one.load.name, "runs": one.runs, "gates": one.gates} for one in results]
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(document)) + b"\n")
    if arguments.write:
        missing = [
            f"{load.name} ({', '.join(left)})"
            for part, these in PARTS.items()
            for load in these
            if (left := [one for one in needed(part, load, baselines=baselines) if one not in runs.get(load.name, {})])
        ]
        PAGE.write_text(page(results, missing, baselines=baselines))
    return 1 if failed else 0


def _job(part: str, name: str, policy: str, seed: int) -> tuple[str, str, Kept]:
    """In another process: loads hold functions, which can't be sent there."""
    load = next(load for load in PARTS[part] if load.name == name)
    return name, policy, run(load, policy, seed, say=lambda text: print(text, flush=True))


if __name__ == "__main__":
    sys.exit(main())
