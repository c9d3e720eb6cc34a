"""``paceline status [NAME]``: what a deployment is, what it does now and why, and where to look if something is wrong.

Asks the cluster; :mod:`~paceline.cli.overview` makes sense of the answers, :mod:`~paceline.cli.status_view` draws them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from paceline.cli.exit_codes import FINE, NOT_FINE
from paceline.cli.names import deployment_names
from paceline.cli.options import TABLE, cluster_options, lease_namespace, output_format
from paceline.errors import ClusterError, ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from paceline.cli.cluster import Cluster, Json
    from paceline.cli.overview import Overview

WATCH_SECONDS: Final = 2.0
LEASE: Final = "paceline-operator"
SILENT_FACTOR: Final = 3.0
"""An operator is silent when its Lease is older than so many of its terms."""


@click.command(
    short_help="What is there, what it does now and why, what is wrong.",
    epilog="""\b
Examples:
  paceline status                       every deployment of the namespace
  paceline status -A                    of all namespaces
  paceline status chat -n prod          one, in full
  paceline status chat --watch          again every two seconds
  paceline status chat -o json | jq .problems
""",
)
@click.argument("name", required=False, shell_complete=deployment_names)
@cluster_options
@click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="Without NAME: of all namespaces.")
@click.option("-w", "--watch", is_flag=True, help="Look again and again until Ctrl-C.")
@lease_namespace
@output_format
def status(
    name: str | None,
    namespace: str | None,
    context: str | None,
    lease_namespace: str,
    output: str,
    *,
    everywhere: bool,
    watch: bool,
) -> int:
    """Show the ModelDeployment NAME: what is wrong and where to look next, engines by role, ratio, attainment and
    budget, what it is doing now and why, and what each engine waits for. Without NAME: every deployment, one a line.

    Exits with 1 where something is not ready.
    """
    from paceline.cli.cluster import Cluster
    from paceline.clock import WallClock

    if name is not None and everywhere:
        raise click.UsageError("-A lists deployments of all namespaces; leave NAME out, or give -n.")
    try:
        cluster = Cluster(WallClock(), context=context, namespace=namespace)
    except ConfigError as error:
        local = "A `paceline up` shows its state itself, in its terminal and on its live page."
        raise ConfigError(f"{error} {local}") from None
    question = _Question(cluster, name, lease_namespace, everywhere=everywhere)
    if watch:
        _watch(question, output, time.sleep)
        return FINE
    seen = question.ask()
    _print(question, seen, output)
    return FINE if all(one.ready for one in seen) else NOT_FINE


class _Question:
    """Asks a cluster about one deployment, or about all."""

    def __init__(self, cluster: Cluster, name: str | None, lease_namespace: str, *, everywhere: bool) -> None:
        self.cluster = cluster
        self.name = name
        self.everywhere = everywhere
        self.versions: tuple[str, ...] = ()
        """Of all objects that the last look saw: while they stay, nothing but ages has changed."""
        self._lease_namespace = lease_namespace

    def ask(self) -> tuple[Overview, ...]:
        """Look once. Raises ClusterError."""
        if self.name is not None:
            return (self._one(self.cluster.deployment(self.name)),)
        found = sorted(self.cluster.deployments(everywhere=self.everywhere), key=_by_name)
        self.versions = tuple(_version(resource) for resource in found)
        return tuple(self._line(resource) for resource in found)

    def document(self, seen: Sequence[Overview]) -> Any:
        """For programs: the deployment, or a list."""
        documents = [one.document() for one in seen]
        return documents[0] if self.name is not None else documents

    def picture(self, seen: Sequence[Overview]) -> RenderableType:
        """For people."""
        from paceline.cli.status_view import render, render_list

        if self.name is not None:
            return render(seen[0])
        if not seen:
            where = "in the cluster" if self.everywhere else f"in namespace {self.cluster.namespace}"
            return f"There is no ModelDeployment {where}."
        return render_list(seen, everywhere=self.everywhere)

    def _one(self, resource: Json) -> Overview:
        from paceline.api.labels import DEPLOYMENT, KIND
        from paceline.cli.overview import make_overview
        from paceline.policy.resources.common import dns_label

        name = resource["metadata"]["name"]
        pods = self.cluster.pods(f"{DEPLOYMENT}={dns_label(name)}")
        self.versions = tuple(_version(each) for each in (resource, *pods))
        return make_overview(
            resource,
            pods,
            events=self._events(KIND, name=name),
            warnings=self._events("Pod", warnings=True),
            silent_seconds=self._silent(),
            now=self.cluster.now,
        )

    def _line(self, resource: Json) -> Overview:
        from paceline.cli.overview import make_overview

        return make_overview(resource, (), now=self.cluster.now)

    def _events(self, kind: str, *, warnings: bool = False, name: str = "") -> list[Json]:
        """Who may not read events sees the rest."""
        try:
            return self.cluster.events(kind, warnings=warnings, name=name)
        except ClusterError:
            return []

    def _silent(self) -> float | None:
        """For how long the operator's Lease has not been renewed, if that is too long or nobody holds it. Who may not
        read it is told nothing.
        """
        from paceline.policy.lifecycle.observed import seconds_of

        try:
            spec = self.cluster.lease(self._lease_namespace, LEASE).get("spec") or {}
        except ClusterError:
            return None
        renewed = seconds_of(spec.get("renewTime"))
        if renewed is None:
            return None
        silent = self.cluster.now - renewed
        return silent if silent > SILENT_FACTOR * float(spec.get("leaseDurationSeconds") or 0) else None


def _by_name(resource: Json) -> tuple[str, str]:
    return resource["metadata"]["namespace"], resource["metadata"]["name"]


def _version(raw: Json) -> str:
    return f"{raw['metadata']['uid']}@{raw['metadata']['resourceVersion']}"


def _print(question: _Question, seen: Sequence[Overview], output: str) -> None:
    from paceline.cli.output import make_console, print_document

    if output == TABLE:
        make_console().print(question.picture(seen))
    else:
        print_document(question.document(seen), output)


def _watch(question: _Question, output: str, sleep: Callable[[float], None]) -> None:
    """Look until interrupted. A terminal shows one picture that changes, anything else gets what has changed."""
    from rich.live import Live

    from paceline.cli.output import make_console

    console = make_console()
    if output == TABLE and console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            for picture in _pictures(question, sleep):
                live.update(picture, refresh=True)
        return
    before: tuple[str, ...] | None = None
    while True:
        seen = question.ask()
        if question.versions != before:
            _print(question, seen, output)
            before = question.versions
        sleep(WATCH_SECONDS)


def _pictures(question: _Question, sleep: Callable[[float], None]) -> Iterator[RenderableType]:
    """One for each look. A server that does not answer for a moment is no reason to stop watching."""
    from rich.console import Group
    from rich.text import Text

    last: RenderableType = Text()
    while True:
        try:
            last = question.picture(question.ask())
            yield last
        except ClusterError as error:
            yield Group(Text(f"{error} What follows is what was seen last.", style="bold red"), last)
        sleep(WATCH_SECONDS)
