"""``paceline plan FILE --trace T``: the cheapest layout, mode and pool sizes that meet the objective on a trace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from paceline.cli.exit_codes import FINE, NOT_FINE
from paceline.cli.options import JSON, TABLE, YAML, output_format
from paceline.cli.output import make_console, write_file
from paceline.cli.workloads import read_profile, read_workload, trace_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paceline.planning.fleets import Fleet
    from paceline.planning.search import Plan

NEARLY: Final = 0.9
"""Fleets that miss the objective are shown if they attain this share of the target."""


@click.command(
    short_help="Find the cheapest fleet that meets the objective.",
    epilog="""\b
Examples:
  paceline plan deployment.yaml --trace load.jsonl --plot front.png
  paceline plan deployment.yaml --trace load.jsonl --max-gpus 16 --manifest planned.yaml
  paceline plan deployment.yaml --trace load.jsonl -o yaml | kubectl apply -f -
""",
)
@click.argument("file")
@trace_options
@click.option(
    "--engine-profile", metavar="NAME|FILE", help="The only engine model to plan with. Default: all that fit."
)
@click.option("--max-gpus", type=click.IntRange(1, 100_000), help="Most GPUs at once. Default: what FILE allows.")
@click.option("--seed", type=int, default=0, help="Of pod start times, noise and copies.")
@click.option(
    "--manifest", "manifest_file", type=click.Path(path_type=Path), metavar="OUT.yaml", help="Write the manifest there."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="OUT", help="Write all fleets as JSON.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), metavar="OUT.png", help="Draw cost and latency.")
@output_format
def plan(
    file: str,
    engine_profile: str | None,
    max_gpus: int | None,
    seed: int,
    manifest_file: Path | None,
    json_file: Path | None,
    plot_file: Path | None,
    output: str,
    **trace: Any,
) -> int:
    """Search layouts, modes and pool sizes for the ModelDeployment in FILE, and print the cheapest that meets its
    objective on a trace, as a manifest that kubectl apply takes. Model, hardware, objective and everything else stay as
    FILE has them. FILE can be - for standard input.

    With -o yaml standard output is the manifest alone, with -o json all fleets; the rest goes to standard error. Exits
    with 1 if nothing within the bounds meets the objective.
    """
    from rich.console import Console
    from rich.progress import Progress

    from paceline.cli.manifests import read_manifest
    from paceline.planning import words
    from paceline.planning.confidence import confidence
    from paceline.planning.fleets import Ground
    from paceline.planning.layouts import engine_options
    from paceline.planning.search import recommended, search

    md = read_manifest(file)
    options = engine_options(md, profile=read_profile(engine_profile))
    workload = read_workload(md, **trace, seed=seed)
    sure = manifest = None
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)

        def show(what: str, share: float) -> None:
            bar.update(task, description=what, completed=share)

        found = search(md, options, workload, max_gpus=max_gpus, seed=seed, progress=show)
        best = found.best
        if best is not None:
            manifest = _text(md.metadata.name, workload.name, best, recommended(md, best))
            ground = Ground(workload, found.objective, show)
            sure = confidence(ground, best, found.settings[best.option.tensor, best.mode], seed=seed)
    title = f"{workload.name}, {len(workload):,} requests in {workload.seconds / 60:.0f} min"
    aside = output != TABLE
    _print_layouts(found)
    _print_fleets(found, title, aside=aside)
    click.echo(words.verdict(found), err=aside)
    click.echo(words.disaggregation(found), err=aside)
    if (scaling := words.scaling(found)) is not None:
        click.echo(scaling, err=aside)
    if best is not None and sure is not None:
        for sentence in words.sureness(found, best, sure):
            click.echo(sentence, err=aside)
        if (note := words.change_of_mode(md, best)) is not None:
            click.echo(note, err=aside)
    if json_file is not None:
        write_file("--json", json_file, _json(found))
    if plot_file is not None:
        from paceline.planning.plot import draw

        draw(plot_file, found, title=f"{md.spec.model.name}: {title}")
    if output == JSON:
        click.echo(_json(found), nl=False)
    if manifest is None:
        return NOT_FINE
    if manifest_file is not None:
        write_file("--manifest", manifest_file, manifest)
        click.echo(f"Manifest written to {manifest_file}.", err=aside)
    if output == YAML:
        click.echo(manifest, nl=False)
    elif output == TABLE and manifest_file is None:
        click.echo(f"\n{manifest}", nl=False)
    return FINE


def _print_layouts(found: Plan) -> None:
    for one in found.guesses:
        option = one.option
        needed = f"about {one.prefill} prefill and {one.decode} decode engines, {one.gpus} GPUs"
        said = one.problem or f"{needed}; can serve {100 * one.ceiling:.1f}% of the requests in time"
        click.echo(f"TP{option.tensor} ({option.basis}): {said}.", err=True)


def _print_fleets(found: Plan, title: str, *, aside: bool) -> None:
    from rich.table import Table

    from paceline.planning.words import describe

    share = 100 * found.objective.target
    table = Table(title=f"Worth having on {title}", title_justify="left")
    for name in (
        "fleet",
        "GPU-hours",
        "most GPUs",
        "attained",
        "of all",
        f"TTFT p{share:.0f} ms",
        f"ITL p{share:.0f} ms",
        "",
    ):
        table.add_column(name, justify="left" if name in {"fleet", ""} else "right")
    shown = [fleet for fleet in found.front if fleet.good or fleet.attained >= NEARLY * found.objective.target]
    if found.best is not None and found.best not in shown:
        shown = sorted([*shown, found.best], key=lambda fleet: fleet.gpu_hours)
    for fleet in shown:
        mark = "recommended" if fleet is found.best else "" if fleet.good else "misses the objective"
        cells = (
            f"{fleet.gpu_hours:.3g}",
            str(fleet.run.max_gpus),
            f"{100 * fleet.attained:.1f}%",
            f"{100 * fleet.attained_of_all:.1f}%",
        )
        latencies = (f"{fleet.ttft_ms:.0f}", f"{fleet.itl_ms:.1f}")
        table.add_row(describe(fleet), *cells, *latencies, mark, style=None if fleet.good else "dim")
    make_console(aside=aside).print(table)


def _text(name: str, trace: str, fleet: Fleet, manifest: dict[str, Any]) -> str:
    import yaml

    from paceline.planning.words import describe

    head = (
        f"# {name}: {describe(fleet)}.\n"
        f"# The cheapest that met the objective on {trace}, in simulation with engine profile\n"
        f"# {fleet.option.profile.name} ({fleet.option.basis}).\n"
    )
    return head + yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True)


def _json(found: Plan) -> str:
    import json

    def entry(fleet: Fleet) -> dict[str, Any]:
        return {
            "tensor_parallel": fleet.option.tensor,
            "engine_profile": fleet.option.profile.name,
            "basis": str(fleet.option.basis),
            "mode": str(fleet.mode),
            "prefill": fleet.prefill,
            "decode": fleet.decode,
            "scaled": fleet.scaled,
            "settings": str(fleet.tweaks),
            "gpu_hours": fleet.gpu_hours,
            "max_gpus": fleet.run.max_gpus,
            "feasible_attainment": fleet.attained,
            "attainment": fleet.attained_of_all,
            "ttft_ms": _finite(fleet.ttft_ms),
            "itl_ms": _finite(fleet.itl_ms),
            "meets_objective": fleet.good,
        }

    def entries(fleets: Sequence[Fleet]) -> list[dict[str, Any]]:
        return [entry(fleet) for fleet in fleets]

    return (
        json.dumps(
            {
                "best": None if found.best is None else entry(found.best),
                "front": entries(found.front),
                "fleets": entries(found.fleets),
            },
            indent=2,
        )
        + "\n"
    )


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None
