"""What the planner decides, and why: written to the status, an Event, a log line and ``paceline explain``.

:func:`paceline.policy.scaling.planner.plan` makes it::

    plan(observation: Observation, state: PolicyState, settings: ScalingSettings, models: EngineModels)
        -> tuple[Decision, PolicyState]

A decision is a handful of small tuples, each bounded: a record of it fits into a status. ``None`` stands for a number
that does not exist: no number of engines is enough.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta

from paceline.api.wire import Role
from paceline.policy.scaling.observation import Count, Counts, NotNegative, Share, Value

MAX_ACTIONS: Final = 1000
"""Flips, and drains, in one decision."""
MAX_NOTES: Final = 16


class Limit(StrEnum):
    """What bound a decision. The values are those of ``status.scaling.history[].limit``."""

    TTFT = "TTFT"
    ITL = "ITL"
    KV_MEMORY = "KvMemory"
    BATCH = "Batch"
    GPU_BUDGET = "GpuBudget"
    MIN_REPLICAS = "MinReplicas"
    MAX_REPLICAS = "MaxReplicas"
    IDLE = "Idle"
    HELD = "Held"


class Flip(Value, frozen=True, kw_only=True):
    """A running engine that is to change its role, or to get one."""

    engine: str
    before: Role | None
    """None: it had none yet."""
    after: Role


class Start(Value, frozen=True, kw_only=True):
    """New engines. Those without a role get one when they are ready."""

    role: Role | None
    count: Count


class Drain(Value, frozen=True, kw_only=True):
    """An engine that is to finish what it has and go."""

    engine: str
    role: Role | None


class Demand(Value, frozen=True, kw_only=True):
    """What one limit demands of one role."""

    role: Role
    limit: Limit
    engines: Count | None
    """None: no number of engines is enough."""


class Seen(Value, frozen=True, kw_only=True):
    """The traffic of the demand window, in the figures that people think in."""

    request_rate: NotNegative = 0.0
    """Requests a second."""
    uncached_p50: Count = 0
    uncached_p99: Count = 0
    hit_rate: Share = 0.0
    """Share of prompt tokens that were expected in a cache."""
    output_mean: NotNegative = 0.0
    prefill_load: NotNegative = 0.0
    """Engines that prefill would keep busy all the time."""
    backlog_seconds: NotNegative = 0.0
    """Prefill work that waits."""
    held: Count = 0
    """Requests that wait for a place among the streams of a decode engine."""
    attainment: Share | None = None
    correction: NotNegative = 1.0
    """Factor on the prefill load that was learned from what was attained."""


class Outlook(Value, frozen=True, kw_only=True):
    """The forecast."""

    near_seconds: NotNegative = 0.0
    far_seconds: NotNegative = 0.0
    prefill_near: NotNegative = 1.0
    """Load when a flip takes effect, over the mean of the demand window."""
    decode_near: NotNegative = 1.0
    prefill_far: NotNegative = 1.0
    """Peak load until a start takes effect, over the same."""
    decode_far: NotNegative = 1.0
    from_season: bool = False
    """Whether the season asked for more than the trend."""


class Rejected(Value, frozen=True, kw_only=True):
    """Something that was considered and not done."""

    action: str
    why: str


class Explanation(Value, frozen=True, kw_only=True):
    """Everything that is behind a decision."""

    seen: Seen = Seen()
    outlook: Outlook = Outlook()
    demands: Annotated[tuple[Demand, ...], Meta(max_length=MAX_NOTES)] = ()
    """What each limit demanded for the far horizon."""
    near: Counts = Counts()
    """Engines that each role needs for the near one, by which roles change: for what comes now, waits and runs."""
    bound_by: Limit = Limit.HELD
    rejected: Annotated[tuple[Rejected, ...], Meta(max_length=MAX_NOTES)] = ()
    attainment_if_held: Share | None = None
    """Share of feasible requests within the TTFT objective with the prefill engines there are, by the model. None:
    their number does not change.
    """
    attainment_planned: Share | None = None
    """The same with the engines that were decided on."""
    feasible: Share = 1.0
    """Share of requests that any number of engines could serve within the TTFT objective: the ceiling."""
    held_because: str | None = None
    absent: Annotated[tuple[str, ...], Meta(max_length=MAX_NOTES)] = ()
    """Pods that were not ready by their deadline and no longer count. The first few."""


class Decision(Value, frozen=True, kw_only=True):
    """What to do now. Carrying out flips, starts and drains leads from what is there to ``roles`` and ``engines``."""

    at: float
    before: Counts
    """Engines that are ready, by role."""
    starting: Count = 0
    """Pods that are not ready yet."""
    draining: Count = 0
    """Engines that finish what they have and go."""
    roles: Counts
    """Roles of the engines that are there, for the time that a flip takes."""
    engines: Counts
    """Engines that there are to be, ready or not, once starts and drains are carried out. New ones that have no role
    take the one that lacks most of this.
    """
    flips: Annotated[tuple[Flip, ...], Meta(max_length=MAX_ACTIONS)] = ()
    starts: Annotated[tuple[Start, ...], Meta(max_length=3)] = ()
    drains: Annotated[tuple[Drain, ...], Meta(max_length=MAX_ACTIONS)] = ()
    shed: Share = 0.0
    """Hint for admission: share of the arriving prefill work that no allowed number of engines can take."""
    explanation: Explanation = Explanation()

    @property
    def changes_something(self) -> bool:
        """Whether there is anything to carry out."""
        return bool(self.flips or self.starts or self.drains)
