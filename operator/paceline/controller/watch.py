"""A watch cache: every object of one kind with our labels, kept true by list and watch. The operator runs one a kind.

kopf's own streams are not enough for children: they do not notice what was deleted while a watch was broken, nor do
they say when they have seen everything; see docs/decisions.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from paceline.controller.api import Json, KubeApi
from paceline.controller.kinds import Kind
from paceline.controller.metrics import OperatorMetrics
from paceline.controller.refusals import Gone, Unreachable
from paceline.errors import ClusterError

T = TypeVar("T")
Name = tuple[str, str]
"""Namespace and name."""

FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 30.0

log = logging.getLogger(__name__)


class WatchCache(Generic[T]):
    """Objects of one kind, reduced by ``keep`` to what is needed of them. ``changed`` is called after each change,
    with what was there before and what is there now.
    """

    def __init__(
        self,
        api: KubeApi,
        kind: Kind,
        *,
        namespace: str | None,
        selector: str,
        keep: Callable[[Json], T],
        changed: Callable[[T | None, T | None], None],
        metrics: OperatorMetrics,
    ) -> None:
        self.kind = kind
        self.synced = asyncio.Event()
        """Set once everything was seen for the first time."""
        self.trouble: str | None = None
        """Why the cache can't follow the server just now."""
        self._api = api
        self._namespace = namespace
        self._selector = selector
        self._keep = keep
        self._changed = changed
        self._metrics = metrics
        self._version = ""
        """From which a watch goes on; empty where everything is to be listed."""
        self._objects: dict[Name, tuple[int, T]] = {}

    def __len__(self) -> int:
        return len(self._objects)

    async def run(self) -> None:
        """Follow the server until cancelled."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                if not self._version:
                    self._version = await self._list()
                    pause = FIRST_PAUSE_SECONDS
                await self._follow()
                continue
            except Gone:
                self._version = ""
            except Unreachable as error:
                # What was seen so far counts: the server tells what has changed since.
                self.trouble = str(error)
                log.warning("%s; the next try comes in %.1f s", error, pause)
            except ClusterError as error:
                self._version, self.trouble = "", str(error)
                log.warning("%s; the next try comes in %.1f s", error, pause)
            self._metrics.watch_restarted(self.kind.resource)
            # Jitter, so that replicas and caches do not list in step after the server was away.
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - spreads load, keeps no secret
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def put(self, raw: Json) -> None:
        """Take in an object that the server just answered with, so that the next pass does not act on an older one."""
        metadata = raw["metadata"]
        self._set((metadata["namespace"], metadata["name"]), _version(metadata), self._keep(raw))

    async def _list(self) -> str:
        items, version = await self._api.list(
            self.kind.collection(self._namespace), resource=self.kind.resource, selector=self._selector
        )
        seen: set[Name] = set()
        for raw in items:
            self.put(raw)
            seen.add((raw["metadata"]["namespace"], raw["metadata"]["name"]))
        for name in self._objects.keys() - seen:
            self._remove(name)
        self.trouble = None
        self.synced.set()
        self._metrics.cached_objects.labels(self.kind.resource).set(len(self._objects))
        return version

    async def _follow(self) -> None:
        """Take in changes until the server ends the watch."""
        events = self._api.watch(
            self.kind.collection(self._namespace),
            resource=self.kind.resource,
            version=self._version,
            selector=self._selector,
        )
        async for event in events:
            metadata = event.object["metadata"]
            self._version, self.trouble = metadata["resourceVersion"], None
            if event.type == "DELETED":
                self._remove((metadata["namespace"], metadata["name"]))
            elif event.type != "BOOKMARK":
                self.put(event.object)
            self._metrics.cached_objects.labels(self.kind.resource).set(len(self._objects))

    def _set(self, name: Name, version: int, value: T) -> None:
        before = self._objects.get(name)
        # An answer to our own write may be ahead of the watch.
        if before is not None and version < before[0]:
            return
        self._objects[name] = (version, value)
        if before is None or before[1] != value:
            self._changed(None if before is None else before[1], value)

    def _remove(self, name: Name) -> None:
        before = self._objects.pop(name, None)
        if before is not None:
            self._changed(before[1], None)


def _version(metadata: dict[str, Any]) -> int:
    """Resource versions are numbers that grow; one that is not says nothing about age."""
    text = str(metadata.get("resourceVersion", ""))
    return int(text) if text.isdigit() else 0
