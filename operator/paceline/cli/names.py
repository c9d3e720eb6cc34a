"""What a shell completes where a command takes the name of something in the cluster. Whatever goes wrong, it completes
nothing: a shell is no place for messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from paceline.errors import PacelineError

if TYPE_CHECKING:
    from paceline.cli.cluster import Cluster

PATIENCE_SECONDS: Final = 3.0
"""For one request, while somebody waits at a prompt."""


def deployment_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """ModelDeployments of the namespace."""
    try:
        found = _cluster(ctx).deployments()
    except (PacelineError, ImportError):
        return []
    return sorted(name for one in found if (name := one["metadata"]["name"]).startswith(incomplete))


def engine_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Engine pods of the namespace."""
    from paceline.api import labels

    try:
        found = _cluster(ctx).pods(f"{labels.COMPONENT}={labels.COMPONENT_ENGINE}")
    except (PacelineError, ImportError):
        return []
    return sorted(name for one in found if (name := one["metadata"]["name"]).startswith(incomplete))


def _cluster(ctx: click.Context) -> Cluster:
    from paceline.cli.cluster import Cluster
    from paceline.clock import WallClock

    context, namespace = ctx.params.get("context"), ctx.params.get("namespace")
    return Cluster(WallClock(), context=context, namespace=namespace, request_seconds=PATIENCE_SECONDS)
