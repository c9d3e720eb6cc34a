"""The options that name a trace and a part of it, and the workload that they mean. For commands that simulate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from paceline.cli.up import FACTOR, MINUTES, START
from paceline.errors import ConfigError

if TYPE_CHECKING:
    from paceline.api.v1alpha1 import ModelDeployment
    from paceline.policy.scaling.perfmodel import EngineProfile
    from paceline.simulator.workload import Workload

SHOWN_PROBLEMS: Final = 3
"""Bad rows of a trace that are printed."""

PROFILE_SUFFIX: Final = ".toml"

_Command = TypeVar("_Command", bound=Callable[..., Any])
_OPTIONS: Final = (
    click.option(
        "--trace",
        "trace_file",
        type=click.Path(path_type=Path),
        required=True,
        help="Trace to replay; conversation or agents generates a load of that shape.",
    ),
    click.option(
        "--trace-format",
        type=click.Choice(["mooncake", "azure", "burstgpt", "bailian", "servegen", "sharegpt", "paceline"]),
        help="Default: paceline for what `paceline record` wrote, mooncake for the rest.",
    ),
    click.option(
        "--rate-scale",
        type=FACTOR,
        default=1.0,
        show_default=True,
        help="Copies of the trace at once, each a bit shifted.",
    ),
    click.option(
        "--time-scale", type=FACTOR, default=1.0, show_default=True, help="How many times as fast arrivals come."
    ),
    click.option("--start-minute", type=START, default=0.0, help="Where in the trace to begin."),
    click.option("--minutes", type=MINUTES, help="How much of the trace to replay. Default: all of it."),
    click.option(
        "--spread-ticks", is_flag=True, help="Spread requests that share a coarse time stamp until the next one."
    ),
)


def trace_options(command: _Command) -> _Command:
    """Add the options to a command, which hands their values to :func:`read_workload`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_profile(name: str | None) -> EngineProfile | None:
    """The engine model of ``--engine-profile``: a known one by its name, or the only one of a ``.toml`` file."""
    from paceline.policy.scaling.profiles import get_profile, read_profiles

    if name is None or not name.endswith(PROFILE_SUFFIX):
        return None if name is None else get_profile(name)
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--engine-profile {name}: can't read it: {error}.") from None
    profiles = list(read_profiles(text, name).values())
    if len(profiles) != 1:
        raise ConfigError(f"--engine-profile {name}: holds {len(profiles)} profiles; leave the one that is meant.")
    return profiles[0]


def read_workload(
    md: ModelDeployment,
    *,
    trace_file: Path,
    trace_format: str | None,
    rate_scale: float,
    time_scale: float,
    start_minute: float,
    minutes: float | None,
    spread_ticks: bool,
    seed: int,
    shape: str | None = None,
) -> Workload:
    """The load that the options mean, in a ``shape`` of :mod:`paceline.simulator.shapes` if one is named.

    Says on standard error what was left out. Raises TraceError and ConfigError.
    """
    from paceline.simulator.shapes import SHAPES
    from paceline.simulator.workload import Workload
    from paceline.traces.formats import SERVEGEN, read_trace

    generated = trace_format == SERVEGEN
    trace = read_trace(
        trace_file,
        trace_format,
        start_minute=start_minute,
        minutes=minutes,
        generated_rate=rate_scale if generated else 1.0,
        seed=seed,
    )
    if trace.malformed:
        rows = "\n  ".join(str(problem) for problem in trace.problems[:SHOWN_PROBLEMS])
        click.echo(f"{trace_file}: {trace.malformed} malformed rows were left out:\n  {rows}", err=True)
    if spread_ticks:
        trace = trace.spread_ticks()
    trace = trace.at_rate(time_scale)
    if md.spec.model.max_model_len is not None:
        trace, too_long = trace.fitting(md.spec.model.max_model_len)
        if too_long:
            limit = md.spec.model.max_model_len
            click.echo(f"{too_long} requests are longer than spec.model.maxModelLen ({limit}); left out.", err=True)
    if not trace.requests:
        raise ConfigError(f"{trace_file}: no request fits spec.model.maxModelLen.")
    if shape is not None:
        trace = SHAPES[shape](trace, seed)
    return Workload(trace, rate_scale=1.0 if generated else rate_scale, seed=seed)
