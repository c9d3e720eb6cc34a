"""What a source of metrics is to the planner: pages of the routers of one deployment, and why there are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from paceline.api.conditions import Reason
from paceline.planner.pages import RouterPage


@dataclass(frozen=True, slots=True)
class Blind:
    """Why metrics can't be trusted: the reason of the condition ``MetricsAvailable``, and the words."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Router:
    """A router that should have metrics."""

    name: str
    """Of its pod."""
    host: str
    admin_port: int


@dataclass(frozen=True, slots=True)
class Reading:
    """What a source gave."""

    pages: Mapping[str, Sequence[RouterPage]] = field(default_factory=dict)
    """By router, oldest first; those of routers that are gone too, as long as they are within the window."""
    blind: Blind | None = None
    """Why nothing could be read."""
    faults: Mapping[str, Blind] = field(default_factory=dict)
    """Why the newest page of a router could not be read, by router."""


class MetricsSource(Protocol):
    """Where pages come from."""

    async def read(self, namespace: str, deployment: str, routers: Sequence[Router], *, seconds: float) -> Reading:
        """Pages of the last ``seconds``. Never raises for metrics that can't be had: the reading says why."""
        ...

    def forget(self, namespace: str, deployment: str) -> None:
        """The deployment is gone."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...
