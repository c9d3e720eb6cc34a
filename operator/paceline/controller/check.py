"""``paceline check``, which ``helm test`` runs in a pod: is our resource served, and does an operator lead?

A leader is believed when its lease changes while we look: that needs neither its clock nor ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from paceline.clock import Clock
from paceline.controller.api import KubeApi
from paceline.controller.kinds import LEASE, MODEL_DEPLOYMENT, discover
from paceline.controller.lease import NAME
from paceline.controller.refusals import NotFound
from paceline.errors import ClusterError

POLL_SECONDS: Final = 1.0


class NotInstalled(ClusterError):
    """The cluster answers, and something that Paceline needs is not there."""

    exit_code = 1


async def check_installation(
    api: KubeApi,
    *,
    namespace: str,
    timeout_seconds: float,
    clock: Clock,
    say: Callable[[str], None],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Look until all is well; ``say`` gets a line for each thing that is. Raises NotInstalled with what is not.

    ``namespace`` is the one where the operator's replicas agree on who leads.
    """
    deadline = clock.monotonic() + timeout_seconds

    async def pause(trouble: str) -> None:
        if clock.monotonic() >= deadline:
            raise NotInstalled(trouble)
        await sleep(POLL_SECONDS)

    while True:
        served = MODEL_DEPLOYMENT.id in await discover(api, (MODEL_DEPLOYMENT,))
        if served:
            break
        await pause(f"{MODEL_DEPLOYMENT.resource} is not served: the CRD is not installed.")
    say(f"{MODEL_DEPLOYMENT.resource} is served")
    first = ""
    while True:
        holder, version = await _holder(api, namespace)
        if holder and first and version != first:
            break
        first = first or (version if holder else "")
        await pause(f"no operator leads: nobody renews the Lease {NAME} in namespace {namespace}.")
    say(f"{holder} leads")


async def _holder(api: KubeApi, namespace: str) -> tuple[str, str]:
    try:
        lease = await api.get(LEASE.path(namespace, NAME), resource=LEASE.resource)
    except NotFound:
        return "", ""
    holder = (lease.get("spec") or {}).get("holderIdentity") or ""
    return holder, lease["metadata"]["resourceVersion"]
