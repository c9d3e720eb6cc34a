"""Flags that more than one command has, so that each means the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

TABLE: Final = "table"
JSON: Final = "json"
YAML: Final = "yaml"

lease_namespace = click.option(
    "--lease-namespace",
    metavar="NAME",
    envvar="POD_NAMESPACE",
    default="paceline-system",
    show_default=True,
    help="Where the operator runs, and where its replicas agree on who acts. [env: POD_NAMESPACE]",
)
output_format = click.option(
    "-o",
    "--output",
    "output",
    type=click.Choice([TABLE, JSON, YAML]),
    default=TABLE,
    show_default=True,
    help="For people, or for programs.",
)
namespace = click.option("-n", "--namespace", metavar="NAME", help="Default: that of the kubeconfig's context.")
context = click.option("--context", metavar="NAME", help="Context of the kubeconfig. Default: the current one.")


def cluster_options(command: Command) -> Command:
    """Add what says which namespace of which cluster is meant: ``namespace`` and ``context``."""
    return namespace(context(command))


timeout_seconds = click.option(
    "--timeout-seconds",
    type=click.IntRange(1, 86_400),
    help="How long to wait. Default: the drain time of the deployment and three minutes.",
)
"""Of commands that wait for an engine."""
