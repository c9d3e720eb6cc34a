"""An engine that ``drain`` and ``flip`` are asked about, and waiting for what becomes of it.

The commands leave a word on the pod; the operator carries it out, in its usual order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from paceline.api import labels
from paceline.cli.cluster import Cluster, Json, Missing
from paceline.errors import ClusterError, PacelineError

if TYPE_CHECKING:
    from paceline.clock import Clock
    from paceline.policy.lifecycle.observed import Pod

POLL_SECONDS: Final = 1.0
NOTICE_SECONDS: Final = 15.0
"""An operator that has not reacted by then may not be there."""
SPARE_SECONDS: Final = 180.0
"""Waited for longer than a drain may take: for processes to end and for Kubernetes."""


class Refused(PacelineError):
    """What was asked for would do harm, or would not last. The message says what to do in its place."""


@dataclass(frozen=True, slots=True)
class Engine:
    """The pod, its ModelDeployment, and the engines beside it."""

    raw: Json
    pod: Pod
    resource: Json
    others: Sequence[Pod]

    @property
    def drain_seconds(self) -> float:
        """How long its drain may take."""
        return float((self.resource["spec"].get("engine") or {}).get("drainSeconds") or 0)


def find_engine(cluster: Cluster, name: str) -> Engine:
    """The engine in a pod; ``pod/NAME`` is a name too. Raises ClusterError, and Refused for a pod that is none."""
    from paceline.policy.lifecycle.observed import read_pod
    from paceline.policy.resources.common import dns_label

    name = name.removeprefix("pods/").removeprefix("pod/")
    raw = cluster.pod(name)
    pod = read_pod(raw)
    if pod.component == labels.COMPONENT_FOLLOWER:
        raise Refused(f"{name} is one of several pods of an engine: name the first of them, which has the role label.")
    if pod.component != labels.COMPONENT_ENGINE or not pod.deployment:
        what = "a router" if pod.component == labels.COMPONENT_ROUTER else "no pod of Paceline"
        raise Refused(f"{name} is {what}, not an engine. `paceline status NAME` lists the engines.")
    owner = [one for one in cluster.deployments() if dns_label(one["metadata"]["name"]) == pod.deployment]
    if not owner:
        raise Refused(f"{name} belongs to the ModelDeployment {pod.deployment}, which is gone.")
    found = [read_pod(each) for each in cluster.pods(f"{labels.DEPLOYMENT}={pod.deployment}")]
    others = [one for one in found if one.component == labels.COMPONENT_ENGINE and one.uid != pod.uid]
    return Engine(raw, pod, owner[0], others)


@dataclass(frozen=True, slots=True)
class Progress:
    """What a look at the pod says."""

    words: str
    noticed: bool
    """Whether an operator has reacted."""
    over: bool = False


def wait(
    cluster: Cluster,
    engine: Engine,
    progress: Callable[[Pod | None], Progress],
    *,
    timeout_seconds: float,
    clock: Clock,
    sleep: Callable[[float], None],
) -> None:
    """Look until ``progress`` says that it is over, and print each new word. ``progress`` is given None when the pod is
    gone. Raises Refused when it takes too long.
    """
    begun, said, hinted = clock.monotonic(), "", False
    while True:
        seen = progress(_look(cluster, engine))
        if seen.words != said:
            click.echo(f"{engine.pod.name}: {seen.words}")
            said = seen.words
        if seen.over:
            return
        waited = clock.monotonic() - begun
        if waited >= NOTICE_SECONDS and not seen.noticed and not hinted:
            click.echo("No operator has reacted yet: `paceline check` says whether one runs.", err=True)
            hinted = True
        if waited >= timeout_seconds:
            raise Refused(f"{engine.pod.name}: after {waited:.0f} s still: {said} It goes on without this command.")
        sleep(POLL_SECONDS)


def _look(cluster: Cluster, engine: Engine) -> Pod | None:
    from paceline.policy.lifecycle.observed import read_pod

    try:
        pod = read_pod(cluster.pod(engine.pod.name))
    except Missing:
        return None
    except ClusterError as error:
        # It goes on without us; a server that is busy for a moment must not look like a failed drain.
        click.echo(f"{error} Trying again.", err=True)
        return engine.pod
    return pod if pod.uid == engine.pod.uid else None
