"""``paceline planner``: the planner alone, which says what it would do and changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from paceline.errors import ConfigError

if TYPE_CHECKING:
    from paceline.planner.deployment import Step
    from paceline.planner.source import Router


@click.command(
    short_help="Say what the planner would do; change nothing.",
    epilog="""\b
Examples:
  paceline planner deployment.yaml --router 10.0.0.7:8080 --router 10.0.0.8:8080
  paceline planner deployment.yaml --router 127.0.0.1:8080 --looks 3
""",
)
@click.argument("file")
@click.option(
    "--router",
    "routers",
    multiple=True,
    required=True,
    metavar="HOST:PORT",
    help="Admin address of a router; may be repeated, once for each.",
)
@click.option("--profile", metavar="NAME", help="Engine model to plan with. Default: what is known of the hardware.")
@click.option("--looks", type=click.IntRange(min=1), metavar="N", help="End after so many looks.")
def planner(file: str, routers: tuple[str, ...], profile: str | None, looks: int | None) -> int:
    """Watch routers and print what the planner would do for the ModelDeployment in FILE. It runs inside `paceline
    operator` by itself; alone it only recommends, whatever scaling.mode says.
    """
    import asyncio

    from paceline.cli.manifests import read_manifest
    from paceline.clock import WallClock
    from paceline.planner.alone import watch

    md = read_manifest(file)
    found = router_addresses(routers)
    asyncio.run(watch(md, found, WallClock(), _print, profile=profile, looks=looks))
    return 0


def router_addresses(addresses: tuple[str, ...]) -> list[Router]:
    """Raises ConfigError for one that is none."""
    from paceline.planner.source import Router

    found = []
    for address in addresses:
        host, separator, port = address.rpartition(":")
        if not separator or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise ConfigError(f"--router: {address!r} is no address; 10.0.0.7:8080 would be.")
        found.append(Router(address, host.strip("[]"), int(port)))
    return found


def _print(step: Step) -> None:
    if step.blind is not None:
        click.echo(f"holds: {step.blind.message}")
    elif step.news is not None:
        for sentence in step.words:
            click.echo(sentence)
        click.echo()
