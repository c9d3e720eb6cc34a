"""``paceline check``: is Paceline installed in this cluster and alive? ``helm test`` runs it."""

from __future__ import annotations

from collections.abc import Callable

import click

from paceline.cli.exit_codes import FINE, NOT_FINE
from paceline.cli.options import TABLE, context, lease_namespace, output_format


@click.command(
    short_help="Is Paceline installed in the cluster, and alive?",
    epilog="""\b
Examples:
  paceline check
  paceline check --lease-namespace my-namespace --timeout-seconds 5 -o json
""",
)
@context
@lease_namespace
@click.option(
    "--timeout-seconds",
    type=click.IntRange(1, 3600),
    default=60,
    show_default=True,
    help="How long it may take until all is well.",
)
@output_format
def check(context: str | None, lease_namespace: str, timeout_seconds: int, output: str) -> int:
    """Ask the cluster whether it serves ModelDeployments and an operator leads. Exits with 1 and says what is wrong."""
    import asyncio

    from paceline.cli.output import print_document
    from paceline.controller.check import NotInstalled

    found: list[str] = []

    def say(line: str) -> None:
        found.append(line)
        if output == TABLE:
            click.echo(line)

    problem = None
    try:
        asyncio.run(_check(context, lease_namespace, timeout_seconds, say))
    except NotInstalled as error:
        if output == TABLE:
            raise
        problem = str(error)
    if output != TABLE:
        print_document({"ok": problem is None, "found": found, "problem": problem}, output)
    return FINE if problem is None else NOT_FINE


async def _check(context: str | None, namespace: str, timeout_seconds: int, say: Callable[[str], None]) -> None:
    from paceline.cli.cluster import Cluster
    from paceline.clock import WallClock
    from paceline.controller.api import KubeApi
    from paceline.controller.check import check_installation
    from paceline.controller.metrics import OperatorMetrics

    api = KubeApi(Cluster(WallClock(), context=context).connection, OperatorMetrics())
    try:
        await check_installation(api, namespace=namespace, timeout_seconds=timeout_seconds, clock=WallClock(), say=say)
    finally:
        await api.close()
