"""Every write of a pass goes through here: only while this replica leads, and counted. Made once per process.

The check right before each write, and before each time that one is tried again, is what keeps a leader that was
stopped, and woke up after another one took over, from writing. What is decided on a version of an object names that
version besides, so that the API server refuses what slips through the last instant.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Final

from paceline.api import labels
from paceline.controller.api import APPLY, MERGE, STRATEGIC, Json, KubeApi
from paceline.controller.kinds import MODEL_DEPLOYMENT, POD, Kind
from paceline.controller.refusals import NotFound, NotLeader

KILLED: Final = 137

log = logging.getLogger(__name__)


class Writer:
    """Writes for the leader. Raises NotLeader when this replica is none."""

    def __init__(self, api: KubeApi, *, may_write: Callable[[], bool], crash_after_writes: int | None = None) -> None:
        self._api = api
        self._may_write = may_write
        self._writes_left = crash_after_writes
        self.writes = 0
        """How many there were, those that changed nothing included."""

    async def apply(self, kind: Kind, manifest: Json) -> Json:
        """Server-side apply as the field manager ``paceline``; fields that others took are taken back."""
        metadata = manifest["metadata"]
        answer = await self._api.patch(
            kind.path(metadata["namespace"], metadata["name"]),
            manifest,
            resource=kind.resource,
            content_type=APPLY,
            fieldManager=labels.FIELD_MANAGER,
            force="true",
            fence=self._check,
        )
        self._count()
        return answer

    async def merge(self, kind: Kind, namespace: str, name: str, body: Json) -> Json:
        """Change some fields of an object."""
        answer = await self._api.patch(
            kind.path(namespace, name),
            body,
            resource=kind.resource,
            content_type=MERGE,
            fieldManager=labels.FIELD_MANAGER,
            fence=self._check,
        )
        self._count()
        return answer

    async def node(self, name: str, body: Json) -> Json:
        """Change some fields of a node. Raises Conflict where ``body`` names another version than there is."""
        answer = await self._api.patch(
            f"/api/v1/nodes/{name}",
            body,
            resource="nodes",
            content_type=MERGE,
            fieldManager=labels.FIELD_MANAGER,
            fence=self._check,
        )
        self._count()
        return answer

    async def pod_condition(self, namespace: str, name: str, condition: Json) -> Json:
        """Set one condition of a pod, and leave the kubelet's alone."""
        answer = await self._api.patch(
            f"{POD.path(namespace, name)}/status",
            {"status": {"conditions": [condition]}},
            resource=f"{POD.resource}/status",
            content_type=STRATEGIC,
            fieldManager=labels.FIELD_MANAGER,
            fence=self._check,
        )
        self._count()
        return answer

    async def status(self, namespace: str, name: str, status: Json) -> Json:
        """Replace the status of a ModelDeployment; fields that are null go."""
        answer = await self._api.patch(
            f"{MODEL_DEPLOYMENT.path(namespace, name)}/status",
            {"status": status},
            resource=f"{MODEL_DEPLOYMENT.resource}/status",
            content_type=MERGE,
            fieldManager=labels.FIELD_MANAGER,
            fence=self._check,
        )
        self._count()
        return answer

    async def create(self, kind: Kind, namespace: str, manifest: Json) -> Json:
        """Make an object. Raises Conflict where there is one."""
        answer = await self._api.create(kind.collection(namespace), manifest, resource=kind.resource, fence=self._check)
        self._count()
        return answer

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """Delete this very object, if it is still there."""
        try:
            await self._api.delete(kind.path(namespace, name), resource=kind.resource, uid=uid, fence=self._check)
        except NotFound:
            log.debug("%s %s/%s is gone already", kind.kind, namespace, name)
        self._count()

    def _check(self) -> None:
        if not self._may_write():
            raise NotLeader("This replica does not hold the lease any more; it writes nothing.")

    def _count(self) -> None:
        self.writes += 1
        if self._writes_left is None:
            return
        self._writes_left -= 1
        if self._writes_left <= 0:
            log.warning("killed after %d writes, as the environment asks", self.writes)
            sys.stderr.flush()
            os._exit(KILLED)
