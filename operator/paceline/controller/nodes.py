"""Taints nodes whose GPUs failed engines again and again, where the user has asked for it. Called by reconcile passes.

Nobody but a person takes a taint away: the operator can't know that a GPU was mended. A node that can't be tainted is
logged and fails no pass.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from paceline.api import labels
from paceline.clock import Clock
from paceline.controller.api import Json, KubeApi
from paceline.controller.events import Events
from paceline.controller.refusals import NotFound, NotLeader
from paceline.controller.writer import Writer
from paceline.errors import ClusterError
from paceline.policy.lifecycle.faulty_nodes import FaultyNodes
from paceline.policy.lifecycle.observed import Pod

NODES: Final = "nodes"
EFFECT: Final = "NoSchedule"
"""Engines that run there go on: the next fault will move them."""

log = logging.getLogger(__name__)


class NodeTaints:
    """``limit``: GPU errors within a day for which a node is tainted; 0: none is."""

    def __init__(self, api: KubeApi, writer: Writer, events: Events, clock: Clock, *, limit: int) -> None:
        self._api = api
        self._writer = writer
        self._events = events
        self._clock = clock
        self._faulty = FaultyNodes(limit) if limit else None

    async def look(self, about: Json, pods: Iterable[Pod]) -> None:
        """Count the faults of a deployment's engines, and taint nodes that are at their limit."""
        if self._faulty is None:
            return
        for node, faults in self._faulty.look(pods, self._clock.wall()).items():
            try:
                tainted = await self._taint(node)
            except NotLeader:
                raise
            except NotFound:
                tainted = False
            except ClusterError as error:
                log.warning("node %s can't be tainted after %d GPU errors: %s", node, faults, error)
                continue
            self._faulty.forgive(node)
            if tainted:
                message = (
                    f"GPUs of node {node} failed engines {faults} times within a day; it is tainted with "
                    f"{labels.GPU_FAULT}:{EFFECT}. Mend it, then: kubectl taint node {node} {labels.GPU_FAULT}-"
                )
                await self._events.write(about, "NodeTainted", message, warning=True)

    async def _taint(self, node: str) -> bool:
        """Whether it was not tainted before. Taints of others stay, even those that come meanwhile."""
        found = await self._api.get(f"/api/v1/nodes/{node}", resource=NODES)
        taints = list((found.get("spec") or {}).get("taints") or ())
        if any(taint.get("key") == labels.GPU_FAULT for taint in taints):
            return False
        taints.append({"key": labels.GPU_FAULT, "value": "true", "effect": EFFECT})
        await self._writer.node(
            node, {"metadata": {"resourceVersion": found["metadata"]["resourceVersion"]}, "spec": {"taints": taints}}
        )
        return True
