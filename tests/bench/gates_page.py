"""The tables of :mod:`tests.bench.gates`, as text that is Markdown too, and the page that they make up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.bench.gates import Gate, Result
    from tests.bench.gates_runs import Kept

MACHINE: Final = "2 shared virtual cores, 24 GiB of memory"
COLUMNS: Final = (
    "policy", "GPU-hours", "to static", "to oracle", "of feasible", "attained", "good/GPU-hour", "to static",
    "TTFT p50/p90/p99 s", "ITL p50/p90/p99 ms", "flips", "starts", "drains", "refused", "lost", "max GPUs",
)  # fmt: skip
SHORTFALLS: Final[Mapping[str, str]] = {
    "conversation-1x": "`decode-tps` with the best ratio and rate of its grid stays with the engines of the best "
    "static fleet all the time. The planner has no such setting; it starts an engine more when some batches of long "
    "prompts come together, and gives it back.",
    "conversation-2x": "`threshold` with the best thresholds of its grid is 1% cheaper here, with fewer requests "
    "in time; runs of one policy with different seeds lie further apart. With the same kind of tuning it loses the "
    "inversion and the bursts.",
    "conversation-4x": "`decode-tps` with the best ratio and rate of its grid is 1% cheaper here. With the same kind "
    "of tuning it takes 1.2 times as much as the planner on the ramp and six times as much on the inversion.",
    "servegen-day": "The oracle, which orders engines before a jump of the load, gets 1.35 times what static-best gets "
    "out of a GPU-hour. The planner orders them when the jump has come, and misses what comes until pods are ready, a "
    "minute and a half. In the first hours, when no quiet ones have paid for that yet, it also holds engines for the "
    "next jump.",
    "ramp": "The oracle, which knows every arrival and tries fleets until it has the cheapest that it finds, gets 1.17 "
    "times what static-best gets out of a GPU-hour: less than the planner. What the first minutes of the ramp miss, "
    "before pods have started, is made good with an engine or two in the rest of the hour; where that takes longer the "
    "bar is reached, and the hour ends at 94.5%, below the objective (decision 0041).",
}
"""Why a gate fails, as far as it is understood. Printed while one does."""


def table(result: Result) -> str:
    """One load: its policies, and the gates."""
    lines = [f"\n### {result.load.name}: {result.load.about}\n", _row(COLUMNS), _row(["---"] * len(COLUMNS))]
    lines += [_row(_cells(policy, _typical(kept), result)) for policy, kept in result.runs.items()]
    lines += ["", *(f"- **{gate.verdict}** {_gate(gate)}" for gate in result.gates)]
    name = result.load.name
    if name in SHORTFALLS and not all(gate.holds for gate in result.gates if not gate.aim):
        lines += ["", SHORTFALLS[name]]
    return "\n".join(lines)


def _typical(runs: Sequence[Kept]) -> Kept:
    """Of several seeds the one with the median of the GPU-hours."""
    return sorted(runs, key=lambda kept: kept.report.gpu_hours)[(len(runs) - 1) // 2]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(policy: str, kept: Kept, result: Result) -> list[str]:
    report = kept.report

    def ratio(value: float, other: str, field: str) -> str:
        if other not in result.runs:
            return "-"
        base = getattr(_typical(result.runs[other]).report, field)
        return f"{value / base:.2f}" if base else "-"

    def quantiles(values: tuple[float | None, ...], unit: float, digits: int) -> str:
        return " / ".join("-" if value is None else f"{value / unit:.{digits}f}" for value in values)

    ttft, itl = report.ttft_ms, report.itl_ms
    name = f"{policy} {kept.engines[0]}+{kept.engines[1]}" if policy == "static-best" else policy
    return [
        name,
        f"{report.gpu_hours:.1f}",
        ratio(report.gpu_hours, "static-best", "gpu_hours"),
        ratio(report.gpu_hours, "oracle", "gpu_hours"),
        f"{report.feasible_attainment:.1%}",
        f"{report.attainment:.1%}",
        f"{report.goodput_per_gpu_hour:.0f}",
        ratio(report.goodput_per_gpu_hour, "static-best", "goodput_per_gpu_hour"),
        quantiles((ttft.p50, ttft.p90, ttft.p99), 1000, 1),
        quantiles((itl.p50, itl.p90, itl.p99), 1, 1),
        *(str(count) for count in (report.flips, report.starts, report.drains, report.rejected, report.lost)),
        str(report.max_gpus),
    ]


def _gate(gate: Gate) -> str:
    sign = "at least" if gate.at_least else "at most"
    apart = f" ({min(gate.values):.3f} to {max(gate.values):.3f})" if len(gate.values) > 1 else ""
    return f"{gate.what}: {gate.value:.3f}{apart}, {sign} {gate.bound:g}"


def page(results: Sequence[Result], missing: Sequence[str], *, baselines: bool) -> str:
    """The reference page."""
    gates = [gate for result in results for gate in result.gates if not gate.aim]
    held = sum(gate.holds for gate in gates)
    return "\n".join(
        [
            "# How well scaling works, simulated",
            "",
            "<!-- Written by `python -m tests.bench.gates --write`. -->",
            "",
            "Objective: Qwen3-32B on two H200 an engine, time to the first token 2 s, mean time between tokens 25 ms, "
            "both for 95% of the requests that can meet the first on an idle engine. Pods start in 90 s (median) to "
            "180 s (95th percentile), a change of role takes 1 s. All policies run behind the same router and queue "
            "order; `planner` has its default settings on every load, the others get the best of a grid on the load "
            "itself, `static-best` is found by search, and `oracle` knows all arrivals: it is the cheapest schedule "
            "that a search found, which for a whole day compares schedules on its busiest two hours. The engine "
            "model is a fit, not a measurement: figures compare policies, they don't promise hardware.",
            "",
            f"Simulated on {MACHINE}; the same code and seeds give the same figures on any machine. Of each policy "
            "the table shows the run with the median of the GPU-hours over the seeds; a gate compares runs of the same "
            "seed and holds by the median of that, with the smallest and the largest in brackets.",
            "",
            f"{held} of {len(gates)} gates hold.",
            *([f"Not measured with the present code: {', '.join(missing)}."] if missing else []),
            *([] if baselines else ["The other dynamic policies were not compared in this run."]),
            *(table(result) for result in results),
            "",
        ]
    )
