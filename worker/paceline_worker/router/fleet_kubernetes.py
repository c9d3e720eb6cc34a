"""Follows the engines' pods at the Kubernetes API: the fleet source of a router in a cluster.

It lists once, then watches. A watch that the server ends in good order goes on from where it was; after anything else
the router lists anew, since what it missed may be the end of an engine. While the API server can't be asked, the last
known fleet stays in force: engines that die meanwhile are found by the router's own health checks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from paceline.api import wire
from paceline_worker.router.fleet_pods import Pod, endpoint
from paceline_worker.router.pod_api import Event, PodApi, WatchBroken

log = logging.getLogger(__name__)

WATCH_SECONDS: Final = 240
"""Longest watch; each is up to a quarter shorter, so that routers don't come back all at once."""
FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 10.0
LONGEST_RETRY_AFTER_SECONDS: Final = 60.0


class FleetSource(Protocol):
    """Where a router learns of its engines."""

    def begin(self) -> None:
        """Take what is known without waiting."""
        ...

    async def follow(self) -> None:
        """Keep the fleet up to date until cancelled."""
        ...

    async def close(self) -> None:
        """Give back connections."""
        ...

    @property
    def stale_seconds(self) -> float:
        """For how long the fleet may have been out of date; 0 while the source is being followed."""
        ...


class KubernetesFleet:
    """The pods of one deployment, as a fleet."""

    def __init__(
        self,
        api: PodApi,
        apply: Callable[[wire.Fleet], None],
        broken: Callable[[str], None],
        random: Callable[[], float],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._apply = apply
        self._broken = broken
        self._random = random
        self._now = now
        self._pods: dict[str, Pod] = {}
        self._engines: tuple[wire.EngineEndpoint, ...] | None = None
        self._version = 0
        self._following = False
        self._heard = now()
        self._pause = FIRST_PAUSE_SECONDS
        self._complaint = ""

    @property
    def stale_seconds(self) -> float:
        """Since the API server was last heard of; 0 while a watch is open."""
        return 0.0 if self._following else self._now() - self._heard

    def begin(self) -> None:
        """Nothing is known before the first list."""

    async def close(self) -> None:
        """Close the connections to the API server."""
        await self._api.close()

    async def follow(self) -> None:
        """List and watch until cancelled."""
        while True:
            try:
                self._pods, at = await self._api.list_all()
                self._changed()
                while True:
                    at = await self._watch(at)
            except WatchBroken as error:
                await self._wait_after(error)
            finally:
                self._following = False

    async def _watch(self, at: str) -> str:
        """Follow one watch from version ``at`` to its end in good order; returns the version that it came to."""
        seconds = round(WATCH_SECONDS * (1 - self._random() / 4))
        async for events in self._api.watch(at, seconds=seconds):
            self._heard = self._now()
            if not self._following:
                self._recovered()
            for event in events:
                at = event.version or at
                self._take(event)
            if events:
                self._changed()
        self._following = False
        return at

    def _take(self, event: Event) -> None:
        if event.pod is None:
            return
        if event.kind == "DELETED":
            self._pods.pop(event.pod.metadata.name, None)
        else:
            self._pods[event.pod.metadata.name] = event.pod

    def _changed(self) -> None:
        """Hand the fleet on, unless what happened to the pods means nothing to a router."""
        self._heard = self._now()
        engines = tuple(found for pod in self._pods.values() if (found := endpoint(pod)) is not None)
        if engines == self._engines:
            return
        self._engines = engines
        self._version += 1
        self._apply(wire.Fleet(version=self._version, engines=engines))

    def _recovered(self) -> None:
        self._following = True
        self._pause = FIRST_PAUSE_SECONDS
        if self._complaint:
            log.info("the pods are being followed again")
            self._complaint = ""

    async def _wait_after(self, error: WatchBroken) -> None:
        self._following = False
        self._broken(error.kind)
        if error.kind == "expired":
            log.info("%s Listing anew.", error)
        elif error.kind != self._complaint:
            self._complaint = error.kind
            log.warning("%s The last known fleet stays in force.", error)
        pause = max(self._pause, min(error.retry_after_seconds, LONGEST_RETRY_AFTER_SECONDS))
        self._pause = min(LONGEST_PAUSE_SECONDS, self._pause * 2)
        # Half of it by chance: many routers lose the same API server at the same moment.
        await asyncio.sleep(pause * (0.5 + self._random() / 2) if not error.retry_after_seconds else pause)
