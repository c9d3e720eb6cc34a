"""``paceline drain POD``: have an engine finish its work and be replaced, without losing a request."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from paceline.cli.exit_codes import FINE
from paceline.cli.names import engine_names
from paceline.cli.options import cluster_options, timeout_seconds

if TYPE_CHECKING:
    from paceline.cli.asked import Engine, Progress
    from paceline.policy.lifecycle.observed import Pod


@click.command(
    short_help="Have an engine finish its work and be replaced.",
    epilog="""\b
Examples:
  paceline drain chat-flexible-6d5c-x7k2p -n prod
  paceline drain chat-flexible-6d5c-x7k2p --no-wait
""",
)
@click.argument("pod", shell_complete=engine_names)
@cluster_options
@click.option("--wait/--no-wait", default=True, show_default=True, help="Return when the pod is gone, or at once.")
@timeout_seconds
@click.option("--force", is_flag=True, help="Also if no other engine generates tokens: requests wait for the next one.")
def drain(
    pod: str, namespace: str | None, context: str | None, timeout_seconds: int | None, *, wait: bool, force: bool
) -> int:
    """Have the engine in POD take no new work, finish what it has, and go; its workload makes another one. It is what
    the operator does before it removes an engine: no request is lost. For a node that is to be mended, or an engine
    that misbehaves. There is no way back once it has begun.
    """
    from paceline.api import labels
    from paceline.cli.asked import SPARE_SECONDS, find_engine
    from paceline.cli.asked import wait as wait_for
    from paceline.cli.cluster import Cluster
    from paceline.clock import WallClock

    clock = WallClock()
    cluster = Cluster(clock, context=context, namespace=namespace)
    engine = find_engine(cluster, pod)
    if not force:
        _refuse_the_last(engine)
    if not engine.pod.asked_to_drain:
        cluster.annotate(engine.raw, {labels.DRAIN: "true"})
        click.echo(
            f"{engine.pod.name}: is to take no new work, and goes when its last request has ended, after "
            f"{engine.drain_seconds:.0f} s at the latest."
        )
    if wait:
        seconds = timeout_seconds or engine.drain_seconds + SPARE_SECONDS
        wait_for(cluster, engine, _progress, timeout_seconds=seconds, clock=clock, sleep=time.sleep)
    return FINE


def _refuse_the_last(engine: Engine) -> None:
    from paceline.api.wire import Role
    from paceline.cli.asked import Refused

    def generates(pod: Pod) -> bool:
        return pod.ready and not (pod.asked_to_drain or pod.deleting) and pod.role in {Role.DECODE, Role.BOTH}

    if generates(engine.pod) and not any(generates(other) for other in engine.others):
        raise Refused(
            f"{engine.pod.name} is the only engine that generates tokens: until another one is ready, requests would "
            "wait. Have one more decode engine first (spec.pools), or use --force."
        )


def _progress(pod: Pod | None) -> Progress:
    from paceline.cli.asked import Progress

    if pod is None:
        return Progress("gone; its workload makes another one.", noticed=True, over=True)
    if pod.deleting:
        return Progress("has no work any more; its processes end.", noticed=True)
    if pod.drained:
        return Progress("has no work any more; it is out of service.", noticed=True)
    if pod.drain_started is not None:
        return Progress("finishes its last requests.", noticed=True)
    return Progress("waits for the operator.", noticed=False)
