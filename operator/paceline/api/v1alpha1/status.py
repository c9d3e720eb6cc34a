"""``status``: what the operator says of a ModelDeployment. Bounded, and nothing that changes from second to second.

There is no scale subresource: it carries one number, and a disaggregated deployment has two that depend on each
other.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from paceline.api.v1alpha1.base import Model, Text, named_list, plain_list
from paceline.api.wire import Role

EngineCount = Annotated[int, Field(ge=0, le=100_000)]
# The API server compares bounds as floats: above 2⁵³ − 1 it refuses every value.
Generation = Annotated[int, Field(ge=0, le=9_007_199_254_740_991)]

HISTORY_LENGTH = 10
"""Most scaling decisions that the status keeps."""


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Model):
    """One aspect of the state, with the Kubernetes API conventions for conditions."""

    type: Annotated[str, Field(min_length=1, max_length=316, pattern=r"^[A-Za-z][A-Za-z0-9]*$")]
    """Aspect, in CamelCase."""
    status: ConditionStatus
    """Whether it holds."""
    reason: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[A-Za-z][A-Za-z0-9]*$")]
    """Why, as one CamelCase word for programs."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """Why, in words for people."""
    last_transition_time: datetime
    """When `status` last changed."""
    observed_generation: Generation
    """Generation of the resource that this was found on."""


class RoleStatus(Model):
    """Engines in one role."""

    desired: EngineCount = 0
    """Engines that there should be."""
    ready: EngineCount = 0
    """Engines that take requests."""
    starting: EngineCount = 0
    """Engines that are not ready yet."""
    draining: EngineCount = 0
    """Engines that finish what they have begun and take nothing new."""
    summary: Annotated[str, Field(max_length=32)] = ""
    """Ready of desired, for the table of `kubectl get`."""


class Roles(Model):
    """Engines by role. A disaggregated deployment has prefill and decode, an aggregated one has both."""

    prefill: RoleStatus | None = None
    """Engines that compute prompts."""
    decode: RoleStatus | None = None
    """Engines that generate tokens."""
    both: RoleStatus | None = None
    """Engines that do both."""


class SloStatus(Model):
    """How the objective is met."""

    attainment_percent: Annotated[int, Field(ge=0, le=100)]
    """Share of requests within both limits, over the window. Refused requests count as misses."""
    window_seconds: Annotated[int, Field(ge=1, le=604_800)]
    """Window that was looked at."""
    summary: Annotated[str, Field(max_length=64)] = ""
    """Attainment and target, for the table of `kubectl get`."""


class ScalingLimit(StrEnum):
    """What bound a decision."""

    TTFT = "TTFT"
    ITL = "ITL"
    KV_MEMORY = "KvMemory"
    BATCH = "Batch"
    GPU_BUDGET = "GpuBudget"
    MIN_REPLICAS = "MinReplicas"
    MAX_REPLICAS = "MaxReplicas"
    IDLE = "Idle"
    HELD = "Held"


class EngineCounts(Model):
    """Engines by role, as a decision counts them."""

    prefill: EngineCount = 0
    """Engines that compute prompts."""
    decode: EngineCount = 0
    """Engines that generate tokens."""
    both: EngineCount = 0
    """Engines that do both."""

    @classmethod
    def by_role(cls, counts: Mapping[Role, int]) -> EngineCounts:
        """Roles that are left out have none."""
        return cls(
            prefill=counts.get(Role.PREFILL, 0), decode=counts.get(Role.DECODE, 0), both=counts.get(Role.BOTH, 0)
        )


class ScalingDecision(Model):
    """One change of the number of engines or of their roles."""

    time: datetime
    """When it was decided."""
    before: EngineCounts
    """Engines before."""
    after: EngineCounts
    """Engines after."""
    limit: ScalingLimit
    """Which demand bound the result."""
    reason: Text
    """Why, in words."""


class ScalingStatus(Model):
    """What the planner wants, and the last things it did."""

    recommended: EngineCounts | None = None
    """Engines that the planner would have now, whatever `scaling.mode` says."""
    history: Annotated[tuple[ScalingDecision, ...], plain_list(at_most=HISTORY_LENGTH)] = ()
    """Last decisions that changed something, newest first."""


class ModelDeploymentStatus(Model):
    """What the operator says of a ModelDeployment."""

    observed_generation: Generation | None = None
    """Generation of the resource that this status was found on."""
    conditions: Annotated[tuple[Condition, ...], named_list("type", at_most=16)] = ()
    """Aspects of the state; `Ready` sums up."""
    endpoint: Annotated[str, Field(max_length=512)] | None = None
    """Address of the OpenAI-compatible API within the cluster."""
    revision: Annotated[str, Field(max_length=63)] | None = None
    """Revision of the engines that the spec asks for."""
    selector: Annotated[str, Field(max_length=1024)] | None = None
    """Label selector of the engine pods."""
    engines: Annotated[str, Field(max_length=32)] | None = None
    """Ready of desired engines over all roles, for the table of `kubectl get`."""
    ratio: Annotated[str, Field(max_length=32)] | None = None
    """Prefill to decode engines that are ready, for example `2:1`."""
    roles: Roles | None = None
    """Engines by role."""
    slo: SloStatus | None = None
    """How the objective is met."""
    scaling: ScalingStatus | None = None
    """What the planner wants, and the last things it did."""
