"""``paceline calibrate``: an engine profile from measured points, or from measuring an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from paceline.api import labels
from paceline.cli.output import write_file
from paceline.errors import ConfigError

if TYPE_CHECKING:
    from paceline.planning.points import Points
    from paceline.policy.scaling.perfmodel import EngineProfile


@click.command(
    short_help="Measure engines, and write a profile of them.",
    epilog="""\b
Examples:
  paceline calibrate --endpoint http://127.0.0.1:8000 --accelerator h200 --tensor-parallel 2 -o mine.toml
  paceline calibrate --endpoint http://127.0.0.1:8000 --serving 600 --like qwen3-32b-h200-tp2 -o mine.toml
  paceline calibrate points.csv --like qwen3-32b-h200-tp2 -o mine.toml
""",
)
@click.argument("points_file", metavar="[POINTS]", required=False, type=click.Path(path_type=Path))
@click.option("--endpoint", metavar="URL", help="Measure this OpenAI-compatible engine, which must be idle.")
@click.option(
    "--serving",
    type=click.FloatRange(1, 86_400),
    metavar="SECONDS",
    help="Send the endpoint nothing, but watch its own metrics for so long while it serves.",
)
@click.option("--model", help="Model, such as Qwen/Qwen3-32B. Default: that of --like, or of the endpoint.")
@click.option("--accelerator", metavar="GPU", help="Such as h200. Default: that of --like.")
@click.option("--tensor-parallel", type=click.IntRange(1, 1024), help="GPUs of the engine. Default: that of --like.")
@click.option("--like", metavar="PROFILE", help="Profile to begin with. Default: an estimate from data sheets.")
@click.option("--name", help="Name of the new profile. Default: from model, GPU and size.")
@click.option("--kv-capacity-tokens", type=click.IntRange(1), help="As vLLM logs it. Default: what the endpoint says.")
@click.option("--seed", type=int, default=0, help="Of the prompts.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="OUT.toml", help="Write the profile there.")
@click.option("--save-points", type=click.Path(path_type=Path), metavar="OUT.csv", help="Write what was measured.")
def calibrate(
    points_file: Path | None,
    endpoint: str | None,
    serving: float | None,
    model: str | None,
    accelerator: str | None,
    tensor_parallel: int | None,
    like: str | None,
    name: str | None,
    kv_capacity_tokens: int | None,
    seed: int,
    output: Path | None,
    save_points: Path | None,
) -> int:
    """Fit an engine profile to the POINTS of a file, to an idle engine that is measured now (--endpoint), or to one
    that is watched while it serves (--endpoint and --serving). Prints the errors of the fit and the profile, which
    --engine-profile of plan and simulate takes as a file, and the operator in an annotation of the ModelDeployment.

    POINTS is CSV or JSON lines: kind (prefill or step), milliseconds; new_tokens and cached_tokens of a prefill;
    sequences and context_tokens (of all of them together) of a step.
    """
    from dataclasses import replace

    from paceline.planning.calibration import calibrate as fit
    from paceline.planning.calibration import sentences
    from paceline.planning.points import csv_of, read_points

    if (points_file is None) == (endpoint is None):
        raise ConfigError("give either a file of points or --endpoint URL.")
    if serving is not None and (endpoint is None or save_points is not None):
        raise ConfigError("--serving needs --endpoint, and has no points for --save-points.")
    start = None if like is None and model is None else _start(like, model, accelerator, tensor_parallel)
    if serving is not None:
        if start is None:
            raise ConfigError("--serving: say what to begin with, by --like PROFILE, or --model and --accelerator.")
        _write(_served(str(endpoint), serving, start, name or f"{start.name}-calibrated", kv_capacity_tokens), output)
        return 0
    if points_file is not None:
        points, source = read_points(points_file), f"measured, {points_file.name}"
    else:
        points, served, room = _measured(str(endpoint), seed, model if like is None else None)
        source, kv_capacity_tokens = f"measured through the API of {served}", kv_capacity_tokens or room
        model = model or served
    if start is None:
        start = _start(like, model, accelerator, tensor_parallel)
    if kv_capacity_tokens is not None:
        start = replace(start, kv_capacity_tokens=kv_capacity_tokens)
    if save_points is not None:
        write_file("--save-points", save_points, csv_of(points))
    made = fit(points, start, name=name or f"{start.name}-calibrated", provenance=source)
    for sentence in sentences(made):
        click.echo(sentence, err=True)
    _write(made.profile, output)
    return 0


def _write(profile: EngineProfile, output: Path | None) -> None:
    from paceline.planning.calibration import entry_text

    text = entry_text(profile)
    if output is None:
        click.echo(text, nl=False)
        return
    write_file("--output", output, text)
    click.echo(
        f"Profile written to {output}: use it with --engine-profile {output}, or give it to the operator:\n"
        f'  kubectl annotate --overwrite modeldeployment NAME {labels.ENGINE_PROFILE}="$(cat {output})"',
        err=True,
    )


def _start(like: str | None, model: str | None, accelerator: str | None, tensor_parallel: int | None) -> EngineProfile:
    """The profile to begin with."""
    from dataclasses import replace

    from paceline.policy.scaling.assumed import precision_of
    from paceline.policy.scaling.estimate import estimate
    from paceline.policy.scaling.hardware import find_gpu, find_model, gpus, models
    from paceline.policy.scaling.physics import Engine, Layout
    from paceline.policy.scaling.profiles import get_profile

    if like is not None:
        known = get_profile(like)
        return replace(
            known,
            model=(model or known.model).rsplit("/", 1)[-1],
            accelerator=(accelerator or known.accelerator).lower(),
            tensor_parallel=tensor_parallel or known.tensor_parallel,
        )
    shape, gpu = find_model(model or ""), find_gpu(accelerator or "")
    if shape is None:
        raise ConfigError(
            f"--model {model or '(not given)'}: its shape is not known, so begin with a profile: --like. Known models: "
            f"{', '.join(sorted(models()))}."
        )
    if gpu is None:
        raise ConfigError(
            f"--accelerator {accelerator or '(not given)'}: not known, so begin with a profile: --like. Known: "
            f"{', '.join(sorted(gpus()))}."
        )
    layout = Layout(tensor=tensor_parallel or 1, precision=precision_of(model or ""))
    return estimate(Engine(shape, gpu, layout))


def _measured(url: str, seed: int, model: str | None) -> tuple[Points, str, int | None]:
    """(points, model served, KV capacity) of a live engine."""
    import asyncio

    from paceline.planning.endpoint import measure

    with _progress() as show:
        found = asyncio.run(measure(url, model=model, seed=seed, progress=show))
    return found.points, found.model, found.kv_capacity_tokens


def _served(url: str, seconds: float, start: EngineProfile, name: str, room: int | None) -> EngineProfile:
    """The profile of an engine that is watched while it serves."""
    import asyncio
    import time

    from paceline.planning.serving import served_profile, watch

    click.echo(f"Watching {url} for {seconds:.0f} s. Nothing is sent to it but requests for its metrics.", err=True)
    with _progress() as show:
        watching = watch(
            url,
            start,
            seconds=seconds,
            kv_capacity_tokens=room,
            clock=time.monotonic,
            sleep=asyncio.sleep,
            progress=show,
        )
        watched = asyncio.run(watching)
    for what, part in (("prefill", watched.fitted.prefill), ("decode", watched.fitted.step)):
        click.echo(f"{what}: {part.reason.removeprefix(f'{what}: ')}.", err=True)
    return served_profile(watched, name=name, endpoint=url)


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """A bar for people; what it gives says what goes on, and what share of all is done."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)

        def show(what: str, share: float) -> None:
            bar.update(task, description=what, completed=share)

        yield show
