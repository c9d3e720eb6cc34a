"""``paceline check``: is Paceline installed in this cluster and alive? ``helm test`` runs it."""

from __future__ import annotations

import click

from paceline.cli.options import lease_namespace


@click.command()
@lease_namespace
@click.option(
    "--timeout-seconds",
    type=click.IntRange(1, 3600),
    default=60,
    show_default=True,
    help="How long it may take until all is well.",
)
def check(lease_namespace: str, timeout_seconds: int) -> int:
    """Ask the cluster whether it serves ModelDeployments and an operator leads. Exits with 1 and says what is wrong."""
    import asyncio

    asyncio.run(_check(lease_namespace, timeout_seconds))
    return 0


async def _check(namespace: str, timeout_seconds: int) -> None:
    import kopf

    from paceline.clock import WallClock
    from paceline.controller.api import KubeApi
    from paceline.controller.check import check_installation
    from paceline.controller.login import log_in
    from paceline.controller.metrics import OperatorMetrics

    api = KubeApi(lambda: log_in(kopf.OperatorSettings()), OperatorMetrics())
    try:
        await check_installation(
            api, namespace=namespace, timeout_seconds=timeout_seconds, clock=WallClock(), say=click.echo
        )
    finally:
        await api.close()
