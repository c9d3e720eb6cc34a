"""Flags that more than one command has."""

from __future__ import annotations

import click

lease_namespace = click.option(
    "--lease-namespace",
    metavar="NAME",
    envvar="POD_NAMESPACE",
    default="paceline-system",
    show_default=True,
    help="Where the operator runs, and where its replicas agree on who acts. [env: POD_NAMESPACE]",
)
