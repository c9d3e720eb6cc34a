"""``paceline flip POD --to ROLE``: have a running engine serve the other role."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from paceline.cli.exit_codes import FINE
from paceline.cli.names import engine_names
from paceline.cli.options import cluster_options, timeout_seconds

if TYPE_CHECKING:
    from paceline.api.v1alpha1 import ModelDeployment
    from paceline.api.wire import Role
    from paceline.cli.asked import Engine, Progress
    from paceline.policy.lifecycle.observed import Pod


@click.command(
    short_help="Have a running engine serve the other role.",
    epilog="""\b
Examples:
  paceline flip chat-flexible-6d5c-x7k2p --to decode -n prod
""",
)
@click.argument("pod", shell_complete=engine_names)
@click.option("--to", "role", type=click.Choice(["prefill", "decode"]), required=True, help="The role that it takes.")
@cluster_options
@click.option("--wait/--no-wait", default=True, show_default=True, help="Return when it serves that role, or at once.")
@timeout_seconds
def flip(
    pod: str, role: str, namespace: str | None, context: str | None, timeout_seconds: int | None, *, wait: bool
) -> int:
    """Have the engine in POD serve another role. Nothing restarts, no request is lost, and its cache stays. With
    roleChangePolicy DrainFirst it finishes first what it has.

    With scaling.mode Recommend it stays so. With Auto the planner goes on from there and may change it back. With Off
    the spec alone says how many engines serve each role, so the command refuses.
    """
    from paceline.api import labels
    from paceline.api.v1alpha1 import from_manifest
    from paceline.api.v1alpha1.scaling import ScalingMode
    from paceline.api.wire import Role
    from paceline.cli.asked import SPARE_SECONDS, find_engine
    from paceline.cli.asked import wait as wait_for
    from paceline.cli.cluster import Cluster
    from paceline.clock import WallClock

    clock = WallClock()
    cluster = Cluster(clock, context=context, namespace=namespace)
    engine, wanted = find_engine(cluster, pod), Role(role)
    if engine.pod.role is wanted and engine.pod.next_role is None:
        click.echo(f"{engine.pod.name}: serves {wanted} already.")
        return FINE
    md = from_manifest({**engine.resource, "status": None}, f"ModelDeployment {engine.resource['metadata']['name']}")
    _refuse_what_does_not_last(engine, wanted, md)
    cluster.annotate(engine.raw, {labels.NEXT_ROLE: wanted.value})
    click.echo(f"{engine.pod.name}: is to serve {wanted} instead of {engine.pod.role}.")
    if md.spec.scaling.mode is ScalingMode.AUTO:
        click.echo(
            f"scaling.mode is Auto: the planner looks every {md.spec.scaling.interval_seconds} s and changes it back "
            "when the load asks for that. With mode Recommend it stays."
        )
    if wait:
        seconds = timeout_seconds or engine.drain_seconds + SPARE_SECONDS
        wait_for(cluster, engine, _progress(wanted), timeout_seconds=seconds, clock=clock, sleep=time.sleep)
    return FINE


def _refuse_what_does_not_last(engine: Engine, wanted: Role, md: ModelDeployment) -> None:
    """Raises Refused for what the operator would put back at once."""
    from paceline.api.v1alpha1.scaling import ScalingMode
    from paceline.cli.asked import Refused
    from paceline.policy.resources import hardware_pools

    pod = engine.pod
    if pod.asked_to_drain or pod.deleting or pod.finished:
        raise Refused(f"{pod.name} is on its way out; choose another engine.")
    if pod.role is None or not pod.containers_ready:
        raise Refused(f"{pod.name} is not ready yet: it gets the role that lacks most when it is.")
    if md.spec.scaling.mode is ScalingMode.OFF:
        raise Refused(
            "scaling.mode is Off: minReplicas in spec.pools says how many engines serve each role, and the operator "
            "would put it back at once. Change minReplicas, or set scaling.mode to Recommend."
        )
    bounds = {bound.role: bound for pool in hardware_pools(md.spec) if pool.name == pod.pool for bound in pool.bounds}
    if len(bounds) < 2 or wanted not in bounds:
        raise Refused(
            f"{pod.name} is of pool {pod.pool}, whose engines all serve {pod.role}: roles change only where prefill "
            "and decode have the same hardware."
        )
    staying = [
        one
        for one in engine.others
        if one.pool == pod.pool and not (one.asked_to_drain or one.deleting or one.finished)
    ]
    if any(one.template != pod.template for one in staying):
        raise Refused("Engines are being replaced just now, and roles follow the spec until that is done. Try later.")
    left = sum(one.aim is pod.role for one in staying)
    if pod.role in bounds and left < max(1, bounds[pod.role].minimum):
        raise Refused(
            f"{left} {pod.role} engines would be left, and spec.pools asks for at least "
            f"{max(1, bounds[pod.role].minimum)}. Lower minReplicas, or have more engines first."
        )
    there = sum(one.aim is wanted for one in staying) + 1
    if there > bounds[wanted].maximum:
        raise Refused(
            f"There would be {there} {wanted} engines, and spec.pools allows {bounds[wanted].maximum}. Raise "
            "maxReplicas."
        )


def _progress(wanted: Role) -> Callable[[Pod | None], Progress]:
    from paceline.cli.asked import Progress, Refused

    def progress(pod: Pod | None) -> Progress:
        if pod is None or pod.deleting:
            raise Refused("The engine is gone; its workload makes another one.")
        if pod.role is wanted and pod.next_role is None:
            return Progress(f"serves {wanted}.", noticed=True, over=True)
        if pod.next_role is None:
            raise Refused(
                f"{pod.name} goes on as {pod.role}: the operator has put it back. `paceline explain` says what the "
                "planner wants."
            )
        if pod.change_started is not None:
            return Progress(f"finishes what it has, then serves {wanted}.", noticed=True)
        return Progress("waits for the operator.", noticed=False)

    return progress
