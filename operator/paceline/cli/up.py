"""``paceline up FILE``: serve a ModelDeployment on this machine. Checks the flags; :mod:`paceline.local.up` does the
rest.
"""

from __future__ import annotations

import math
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from paceline.errors import ConfigError, ConfigurationImpossible

if TYPE_CHECKING:
    from paceline.local.loads import LoadChoice


class _Finite(click.FloatRange):
    """A number within bounds. Not a number is within none, though no comparison says so."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See click.ParamType."""
        if math.isnan(float(super().convert(value, param, ctx))):
            self.fail("nan is not a number.", param, ctx)
        return super().convert(value, param, ctx)


FACTOR = _Finite(min=0, min_open=True, max=1000)
MINUTES = _Finite(min=0, min_open=True, max=1_000_000)
START = _Finite(min=0, max=1_000_000)
LOGS_NOT_NEEDED = frozenset({0, 130})
"""Exit codes after which nobody wants to read the logs in a temporary folder."""


@click.command(
    short_help="Serve a ModelDeployment on this machine.",
    epilog="""\b
Examples:
  paceline up deployment.yaml
  paceline up deployment.yaml --speed 4 --load shift --load-minutes 4 --once --report report.json
  paceline up deployment.yaml --engine vllm --model-path ./model
""",
)
@click.argument("file")
@click.option(
    "--engine",
    type=click.Choice(["emulator", "vllm"]),
    default="emulator",
    show_default=True,
    help="Emulated engines for any machine, or real vLLM.",
)
@click.option("--profile", metavar="NAME", help="Hardware to emulate. Default: what the manifest asks for.")
@click.option(
    "--speed", type=FACTOR, default=1.0, show_default=True, help="How many times faster emulated engines run."
)
@click.option(
    "--model-path", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the weights on this machine."
)
@click.option(
    "--prefill", type=click.IntRange(1, 64), metavar="N", help="Prefill engines. Default: the manifest's minimum."
)
@click.option(
    "--decode", type=click.IntRange(1, 64), metavar="N", help="Decode engines. Default: the manifest's minimum."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Of the endpoint; 0 takes any free one.",
)
@click.option(
    "--tenant-keys",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder with a file of API keys, one a line, for each tenant of the manifest.",
)
@click.option(
    "--scaling",
    type=click.Choice(["Auto", "Recommend", "Off"]),
    help="In place of the manifest's scaling.mode. With --prefill or --decode the default is Off.",
)
@click.option(
    "--record",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep what the planner sees and decides there, to replay it.",
)
@click.option(
    "--load", "load_kind", metavar="KIND", help="Load to send: conversation, agents, shift, or mooncake:FILE."
)
@click.option(
    "--load-minutes", type=MINUTES, default=2.0, show_default=True, help="How much of the load, in its own time."
)
@click.option("--start-minute", type=START, default=0.0, help="Where in the trace to begin.")
@click.option("--rate-scale", type=FACTOR, default=1.0, help="Have requests arrive so many times as fast.")
@click.option(
    "--spread-ticks",
    is_flag=True,
    help="Spread requests that the trace gives one arrival time evenly until the next: its clock was coarse.",
)
@click.option("--seed", type=int, default=0, help="Of the generated load.")
@click.option("--once", is_flag=True, help="End when the load has ended; fail if any request failed.")
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE", help="Write the SLO report as JSON.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help="Write a picture of the load as PNG.")
@click.option(
    "--run-dir", type=click.Path(path_type=Path), metavar="DIR", help="Folder for logs. Default: a temporary one."
)
def up(
    file: str,
    engine: Literal["emulator", "vllm"],
    profile: str | None,
    speed: float,
    model_path: Path | None,
    prefill: int | None,
    decode: int | None,
    port: int,
    tenant_keys: Path | None,
    scaling: str | None,
    record: Path | None,
    load_kind: str | None,
    load_minutes: float,
    start_minute: float,
    rate_scale: float,
    spread_ticks: bool,
    seed: int,
    once: bool,
    report: Path | None,
    plot: Path | None,
    run_dir: Path | None,
) -> int:
    """Serve the ModelDeployment in FILE on this machine: engines and router as processes, an OpenAI-compatible endpoint
    in front of them. FILE can be - for standard input. Ctrl-C stops it, a second one at once.
    """
    if engine == "vllm" and (speed != 1 or profile is not None):
        raise ConfigError("--speed and --profile are for emulated engines; leave them out with --engine vllm.")
    if load_kind is None and (once or report is not None or plot is not None):
        raise ConfigError("--once, --report and --plot need a load: add --load conversation or --load mooncake:FILE.")
    if engine == "vllm" and find_spec("vllm") is None:
        raise ConfigurationImpossible(
            "--engine vllm",
            "vLLM beside paceline (`make demo-vllm` installs both into .venv-vllm; then: .venv-vllm/bin/paceline up)",
            f"none for {sys.executable}",
        )

    import shutil
    import tempfile

    from rich.console import Console

    from paceline.api.v1alpha1.scaling import ScalingMode
    from paceline.api.wire import Role
    from paceline.cli.manifests import read_manifest
    from paceline.local.loads import LoadChoice
    from paceline.local.plan import ClusterOptions, with_model_path, with_scaling
    from paceline.local.up import UpOptions, run_up

    md = read_manifest(file)
    if model_path is not None:
        md = with_model_path(md, model_path)
    if scaling is not None:
        md = with_scaling(md, ScalingMode(scaling))
    counts = {Role.PREFILL: prefill, Role.DECODE: decode}
    load: LoadChoice | None = None
    if load_kind is not None:
        load = LoadChoice(load_kind, load_minutes, start_minute, rate_scale, seed, spread_ticks)
    folder = run_dir or Path(tempfile.mkdtemp(prefix="paceline-"))
    options = UpOptions(
        cluster=ClusterOptions(
            backend=engine,
            speed=speed,
            profile=profile,
            port=port,
            tenant_keys=tenant_keys,
            counts={role: count for role, count in counts.items() if count is not None},
        ),
        run_dir=folder,
        load=load,
        once=once,
        fixed=scaling is None and (prefill is not None or decode is not None),
        record=record,
        report=report,
        plot=plot,
    )
    code = run_up(md, options, Console())
    if run_dir is None and code in LOGS_NOT_NEEDED:
        shutil.rmtree(folder)
    return code
