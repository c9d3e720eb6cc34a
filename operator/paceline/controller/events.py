"""Kubernetes Events about a ModelDeployment: what ``kubectl describe`` shows a person. Called by the reconcile pass.

Equal events (same reason, same words) become one whose count goes up. Events are a courtesy: one that can't be written
is logged and never fails a pass.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from typing import Final

from paceline.api import labels
from paceline.clock import Clock, timestamp
from paceline.controller.api import Json
from paceline.controller.kinds import EVENT
from paceline.controller.refusals import Conflict, NamespaceGoing, NotFound, NotLeader
from paceline.controller.writer import Writer
from paceline.errors import ClusterError

NORMAL: Final = "Normal"
WARNING: Final = "Warning"
LONGEST_MESSAGE: Final = 1024
"""Characters that the API server allows in an event's message."""
REMEMBERED: Final = 4096
"""Events whose count this process remembers; the API server keeps them for an hour anyway."""

log = logging.getLogger(__name__)


class Events:
    """Writes events, and counts equal ones up."""

    def __init__(self, writer: Writer, clock: Clock, identity: str) -> None:
        self._writer = writer
        self._clock = clock
        self._identity = identity
        self._counts: OrderedDict[tuple[str, str], int] = OrderedDict()

    async def write(self, about: Json, reason: str, message: str, *, warning: bool = False) -> None:
        """Say something about a ModelDeployment, given as the API server has it."""
        metadata = about["metadata"]
        namespace = metadata["namespace"]
        text = message[:LONGEST_MESSAGE]
        digest = hashlib.sha256(f"{metadata['uid']}\n{reason}\n{text}".encode()).hexdigest()[:16]
        name = f"{metadata['name'][:200]}.{digest}"
        key = (namespace, name)
        try:
            if key in self._counts:
                try:
                    await self._count_up(key)
                except NotFound:
                    self._counts.pop(key)
                else:
                    return
            body = self._event(about, name, reason, text, WARNING if warning else NORMAL)
            try:
                await self._writer.create(EVENT, namespace, body)
                self._remember(key, 1)
            except Conflict:
                # Written before this process started.
                await self._count_up(key)
        except (NotLeader, NamespaceGoing):
            raise
        except ClusterError as error:
            log.warning("an event of %s/%s could not be written: %s", namespace, metadata["name"], error)

    async def _count_up(self, key: tuple[str, str]) -> None:
        count = self._counts.get(key, 1) + 1
        await self._writer.merge(EVENT, *key, {"count": count, "lastTimestamp": timestamp(self._clock)})
        self._remember(key, count)

    def _remember(self, key: tuple[str, str], count: int) -> None:
        self._counts[key] = count
        self._counts.move_to_end(key)
        while len(self._counts) > REMEMBERED:
            self._counts.popitem(last=False)

    def _event(self, about: Json, name: str, reason: str, message: str, kind: str) -> Json:
        metadata, now = about["metadata"], timestamp(self._clock)
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": metadata["namespace"]},
            "involvedObject": {
                "apiVersion": labels.API_VERSION,
                "kind": labels.KIND,
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
            },
            "reason": reason,
            "message": message,
            "type": kind,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": "paceline-operator", "host": self._identity},
            "reportingComponent": f"{labels.GROUP}/operator",
            "reportingInstance": self._identity[:128],
        }
