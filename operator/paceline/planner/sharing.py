"""One GPU quota over all deployments of an operator: collects what each needs and says what each may use."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from paceline.api import labels
from paceline.api.v1alpha1 import ModelDeployment
from paceline.planner.deployment import DeploymentPlanner
from paceline.policy.fleet import Claim, FleetState, Split, split

AGAIN_SECONDS: Final = 1.0
"""Shares are worked out at most so often."""
LARGEST_PRIORITY: Final = 1_000_000

log = logging.getLogger(__name__)

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Share:
    """What one deployment may use, and what it was told about changes of that."""

    gpus: int
    note: str = ""


class Quota:
    """Splits ``gpus`` over all deployments that ask."""

    def __init__(self, gpus: int) -> None:
        self.gpus = gpus
        self._claims: dict[Key, Claim] = {}
        self._state = FleetState()
        self._split: Split | None = None
        self._at = 0.0
        self._notes: dict[Key, str] = {}

    def share(self, key: Key, planner: DeploymentPlanner, *, engines: int, now: float) -> Share:
        """Take note of what the deployment needs now, and say what it may use. ``engines``: that there are, or will be
        without anybody doing more.
        """
        claim = claim_of("/".join(key), planner, engines)
        known = self._claims.get(key)
        self._claims[key] = claim
        if self._split is None or known is None or now - self._at >= AGAIN_SECONDS:
            self._work_out(now)
        shares = {} if self._split is None else self._split.shares
        return Share(shares.get(claim.name, claim.least), self._notes.get(key, ""))

    def forget(self, key: Key) -> None:
        """The deployment is gone: what it had is free."""
        self._claims.pop(key, None)
        self._notes.pop(key, None)
        self._split = None

    def _work_out(self, now: float) -> None:
        self._at = now
        self._split = split(list(self._claims.values()), self.gpus, self._state, now=now)
        self._state = self._split.state
        for transfer in self._split.transfers:
            log.info("quota of %d GPUs: %s", self.gpus, transfer)
            for key in self._claims:
                if "/".join(key) in (transfer.giver, transfer.taker):
                    self._notes[key] = str(transfer)


def claim_of(name: str, planner: DeploymentPlanner, engines: int) -> Claim:
    """What a deployment with so many ``engines`` needs, by its last decision; its minimum before the first."""
    pools = planner.settings.pools
    grain = max(pool.gpus_per_engine for pool in pools.values())
    least = sum(pool.min_engines * pool.gpus_per_engine for pool in pools.values())
    wanted = least
    if planner.last is not None:
        demands = planner.last.decision.explanation.demands
        for role, pool in pools.items():
            needed = [demand.engines for demand in demands if demand.role is role]
            most = pool.max_engines if None in needed else max((one for one in needed if one is not None), default=0)
            wanted += max(0, min(most, pool.max_engines) - pool.min_engines) * pool.gpus_per_engine
    return Claim(name, priority_of(planner.md), least, max(least, wanted), engines * grain, grain)


def priority_of(md: ModelDeployment) -> int:
    """As the annotation says; 0 where it says nothing that is a whole number."""
    text = md.metadata.annotations.get(labels.PRIORITY, "0")
    try:
        priority = int(text)
    except ValueError:
        log.warning("%s/%s: %s is %r, no number", md.metadata.namespace, md.metadata.name, labels.PRIORITY, text[:100])
        return 0
    return max(-LARGEST_PRIORITY, min(LARGEST_PRIORITY, priority))
