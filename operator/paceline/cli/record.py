"""``paceline record``: keep what arrives at routers as a trace, to plan and simulate with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from paceline.errors import ConfigError

if TYPE_CHECKING:
    from paceline.planner.recorder import Line


@click.command(
    short_help="Keep what arrives at routers as a trace.",
    epilog="""\b
Examples:
  paceline record --router 10.0.0.7:8080 --minutes 30 -o load.jsonl
  paceline record seen/prod.chat.observations.jsonl -o load.jsonl
""",
)
@click.argument("recording", required=False, type=click.Path(path_type=Path))
@click.option(
    "--router",
    "routers",
    multiple=True,
    metavar="HOST:PORT",
    help="Admin address of a router to record now; may be repeated, once for each.",
)
@click.option(
    "--minutes", type=click.FloatRange(min=0.05, max=1440), default=10.0, show_default=True, help="How long to record."
)
@click.option(
    "--every", type=click.FloatRange(min=0.5, max=60), default=5.0, show_default=True, help="Seconds between two looks."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="FILE", help="The trace."
)
def record(recording: Path | None, routers: tuple[str, ...], minutes: float, every: float, output: Path) -> int:
    """Write a trace, which --trace of simulate and plan reads: of what routers are asked from now on, or of RECORDING,
    a file that `paceline operator --record` or `paceline up --record` wrote.

    Histograms know sizes, not prompts: nothing that users wrote is kept.
    """
    from paceline.planner.recorder import read_recording
    from paceline.planner.replay import trace_of
    from paceline.traces.recording import write_recording

    if (recording is None) == (not routers):
        raise ConfigError("Give either the RECORDING of an operator or --router addresses to record now.")
    if recording is not None:
        lines = read_recording(recording)
    else:
        click.echo(f"Recording {len(routers)} routers for {minutes:g} minutes ...", err=True)
        lines = _listen(routers, 60 * minutes, every)
    trace = trace_of(lines, output.name)
    write_recording(trace, output)
    click.echo(f"{len(trace.requests)} requests in {trace.requests[-1].arrival_seconds:.0f} s written to {output}")
    return 0


def _listen(routers: tuple[str, ...], seconds: float, every: float) -> list[Line]:
    import asyncio

    from paceline.cli.planner import router_addresses
    from paceline.clock import WallClock
    from paceline.planner.listen import listen

    return asyncio.run(listen(router_addresses(routers), seconds=seconds, every=every, clock=WallClock()))
