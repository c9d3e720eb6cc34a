"""``paceline simulate FILE --trace T``: replay a trace against scaling policies in virtual time, and compare them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from paceline.cli.options import TABLE, output_format
from paceline.cli.output import make_console, print_document, write_file
from paceline.cli.workloads import read_profile, read_workload, trace_options

if TYPE_CHECKING:
    from paceline.simulator.report import PolicyReport, Report

DEFAULT_POLICIES = "planner,static-best,threshold"


@click.command(
    short_help="Compare scaling policies on a trace.",
    epilog="""\b
Examples:
  paceline simulate deployment.yaml --trace load.jsonl
  paceline simulate deployment.yaml --trace conversation --minutes 10 --policy planner,static-best,hpa
  paceline simulate deployment.yaml --trace load.jsonl --plot out.png -o json
""",
)
@click.argument("file")
@trace_options
@click.option(
    "--policy",
    "policies",
    default=DEFAULT_POLICIES,
    show_default=True,
    metavar="NAME[,NAME...]",
    help="Policies to compare; all for every one there is.",
)
@click.option("--shape", type=click.Choice(["inversion", "ramp", "bursts"]), help="Make the load vary.")
@click.option("--engine-profile", metavar="NAME|FILE", help="Engine model. Default: that of the manifest's hardware.")
@click.option("--seed", type=int, default=0, help="Of pod start times, noise and copies.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="OUT", help="Write the report as JSON.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), metavar="OUT.png", help="Draw all policies.")
@output_format
def simulate(
    file: str,
    policies: str,
    shape: str | None,
    engine_profile: str | None,
    seed: int,
    json_file: Path | None,
    plot_file: Path | None,
    output: str,
    **trace: Any,
) -> int:
    """Replay a trace against the ModelDeployment in FILE, in virtual time, under one or more scaling policies. All run
    behind the same router; those with settings get the best of a small grid on the trace. FILE can be - for standard
    input.
    """
    import msgspec
    from rich.console import Console

    from paceline.cli.manifests import read_manifest
    from paceline.simulator.compare import compare, policy_names
    from paceline.simulator.report import report
    from paceline.simulator.scenario import settings_of

    md = read_manifest(file)
    names = policy_names(policies)
    settings = settings_of(md, profile=read_profile(engine_profile), seed=seed)
    workload = read_workload(md, **trace, shape=shape, seed=seed)
    runs = compare(names, workload, settings, Console(stderr=True))
    title = f"{workload.name}, {len(workload):,} requests in {workload.seconds / 60:.0f} min"
    result = report(title, runs)
    if json_file is not None:
        write_file("--json", json_file, msgspec.json.format(msgspec.json.encode(result)).decode() + "\n")
    if plot_file is not None:
        from paceline.simulator.plot import draw

        draw(plot_file, runs, trace=f"{title} on {settings.profile.name}")
    if output == TABLE:
        _print(result)
    else:
        print_document(msgspec.to_builtins(result), output)
    return 0


def _print(result: Report) -> None:
    from rich.table import Table

    table = Table(title=result.trace, title_justify="left")
    for name in ("policy", "attained", "of feasible", "TTFT p50/p90/p99 ms", "ITL p50/p90/p99 ms"):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for name in ("GPU-hours", "good/GPU-hour", "hit rate", "flips", "starts", "drains", "max GPUs", "refused", "lost"):
        table.add_column(name, justify="right")
    for policy in result.policies:
        table.add_row(*_cells(policy), style=None if policy.meets_gate else "yellow")
    console = make_console()
    console.print(table)
    if not all(policy.meets_gate for policy in result.policies):
        console.print("Policies in yellow miss the target share of feasible requests.", style="yellow")
    console.print(
        f"Simulated {result.simulated_requests_per_second:,.0f} requests/s; the runs shown took "
        f"{result.wall_seconds:.1f} s."
    )


def _cells(policy: PolicyReport) -> tuple[str, ...]:
    def quantiles(values: tuple[float | None, ...], digits: int) -> str:
        return " / ".join("-" if value is None else f"{value:.{digits}f}" for value in values)

    ttft, itl = policy.ttft_ms, policy.itl_ms
    return (
        policy.policy,
        f"{100 * policy.attainment:.1f}%",
        f"{100 * policy.feasible_attainment:.1f}%",
        quantiles((ttft.p50, ttft.p90, ttft.p99), 0),
        quantiles((itl.p50, itl.p90, itl.p99), 1),
        f"{policy.gpu_hours:.1f}",
        f"{policy.goodput_per_gpu_hour:.0f}",
        f"{100 * policy.prefix_hit_rate:.1f}%",
        *(str(count) for count in (policy.flips, policy.starts, policy.drains, policy.max_gpus)),
        str(policy.rejected),
        str(policy.lost),
    )
