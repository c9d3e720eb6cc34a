"""Leader election over a Lease: at most one replica writes at a time, even if one was stopped and wakes up later.

The holder renews every few seconds. It counts its own validity from BEFORE it sent the renewal, on a monotonic clock,
and shorter than what others grant it, so it stops believing before another one starts. Everyone who writes asks
:attr:`valid` first. The generated client's election says neither until when it is valid nor uses a monotonic clock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from paceline.clock import Clock
from paceline.controller.api import Json, KubeApi
from paceline.controller.kinds import LEASE
from paceline.controller.refusals import Conflict, NotFound
from paceline.errors import ClusterError

NAME: Final = "paceline-operator"
MARGIN: Final = 2 / 3
"""Share of the lease's duration for which its holder believes in it."""

log = logging.getLogger(__name__)


class LeaderLease:
    """Tries to hold one Lease, for as long as :meth:`run` runs."""

    def __init__(
        self,
        api: KubeApi,
        *,
        namespace: str,
        identity: str,
        duration_seconds: int,
        clock: Clock,
        changed: Callable[[bool], None],
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._identity = identity
        self._duration = duration_seconds
        self._clock = clock
        self._changed = changed
        self._valid_until = float("-inf")
        self._leading = False
        self._seen: tuple[str, float] = ("", float("-inf"))
        """Version of the lease of somebody else, and when it was first seen."""

    @property
    def valid(self) -> bool:
        """Whether this replica may write now."""
        return self._clock.monotonic() < self._valid_until

    async def run(self) -> None:
        """Take the lease when it is free, renew it while it is held; until cancelled."""
        while True:
            try:
                # A renewal that takes longer than the belief lasts is worth nothing.
                async with asyncio.timeout(self._duration * MARGIN):
                    await self._try()
            except (ClusterError, TimeoutError) as error:
                log.warning("the lease can't be renewed: %s", str(error) or "no answer in time")
            if self._leading != self.valid:
                self._leading = self.valid
                log.info("this replica %s", "leads" if self._leading else "does not lead any more")
                self._changed(self._leading)
            await asyncio.sleep(self._duration / 6)

    async def release(self) -> None:
        """Give the lease up, so that another replica need not wait for its end."""
        held, self._valid_until = self.valid, float("-inf")
        if not held:
            return
        lease = await self._api.get(LEASE.path(self._namespace, NAME), resource=LEASE.resource)
        if lease["spec"].get("holderIdentity") == self._identity:
            lease["spec"]["holderIdentity"] = ""
            await self._api.replace(LEASE.path(self._namespace, NAME), lease, resource=LEASE.resource)

    async def _try(self) -> None:
        sent = self._clock.monotonic()
        path = LEASE.path(self._namespace, NAME)
        try:
            lease = await self._api.get(path, resource=LEASE.resource)
        except NotFound:
            lease = {
                "apiVersion": LEASE.api_version,
                "kind": LEASE.kind,
                "metadata": {"name": NAME, "namespace": self._namespace},
                "spec": self._spec({}),
            }
            try:
                await self._api.create(LEASE.collection(self._namespace), lease, resource=LEASE.resource)
            except Conflict:
                return
        else:
            spec = lease.get("spec") or {}
            if spec.get("holderIdentity") not in (self._identity, "", None) and not self._expired(lease):
                return
            lease["spec"] = self._spec(spec)
            try:
                # The version in it makes this fail if somebody else was faster.
                await self._api.replace(path, lease, resource=LEASE.resource)
            except Conflict:
                return
        self._valid_until = sent + self._duration * MARGIN

    def _expired(self, lease: Json) -> bool:
        """Whether its holder has not renewed it for its whole duration, by this replica's own clock."""
        version, now = lease["metadata"]["resourceVersion"], self._clock.monotonic()
        if self._seen[0] != version:
            self._seen = (version, now)
        duration = float(lease["spec"].get("leaseDurationSeconds") or self._duration)
        return now - self._seen[1] >= duration

    def _spec(self, before: Json) -> Json:
        now = datetime.fromtimestamp(self._clock.wall(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        mine = before.get("holderIdentity") == self._identity
        transitions = int(before.get("leaseTransitions") or 0)
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._duration,
            "renewTime": now,
            "acquireTime": before.get("acquireTime", now) if mine else now,
            "leaseTransitions": transitions if mine or not before else transitions + 1,
        }
