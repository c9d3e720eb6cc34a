"""Conditions of a ModelDeployment: their types and reasons, and how a new finding is merged into what stands there.

The status policy builds findings, the controller writes them; docs list the reasons. Time is passed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from paceline.api.v1alpha1.status import Condition, ConditionStatus


class ConditionType(StrEnum):
    """Aspects of the state. All are set on the first visit, so that nobody has to guess what a missing one means."""

    ACCEPTED = "Accepted"
    """The spec is valid. While a later one is not, the last valid one stays in force."""
    READY = "Ready"
    """Sums up: requests are answered, and everything asked for is there."""
    AVAILABLE = "Available"
    """Requests are answered, perhaps by fewer engines than asked for."""
    PROGRESSING = "Progressing"
    """Something is still on its way to what the spec asks for."""
    PREFILL_READY = "PrefillReady"
    """There are as many ready prefill engines as desired."""
    DECODE_READY = "DecodeReady"
    """There are as many ready decode engines as desired."""
    ROUTER_READY = "RouterReady"
    """There are as many ready routers as desired."""
    METRICS_AVAILABLE = "MetricsAvailable"
    """The planner sees what it decides on."""
    SCALING_LIMITED = "ScalingLimited"
    """Demand asks for more than the spec, the budget or the hardware allows."""
    ENGINES_WELL = "EnginesWell"
    """No engine stands out among its siblings by what it says or how slowly."""


class Reason(StrEnum):
    """Why a condition is as it is, as one word for programs."""

    AS_DESIRED = "AsDesired"
    NOT_OBSERVED_YET = "NotObservedYet"
    VALID = "Valid"
    INVALID_SPEC = "InvalidSpec"
    CHILD_REFUSED = "ChildRefused"
    ENGINES_STARTING = "EnginesStarting"
    ENGINES_MISSING = "EnginesMissing"
    ENGINES_DRAINING = "EnginesDraining"
    ROUTERS_STARTING = "RoutersStarting"
    ROLLING_OUT = "RollingOut"
    ROLLOUT_STALLED = "RolloutStalled"
    START_DEADLINE_EXCEEDED = "StartDeadlineExceeded"
    DRAIN_DEADLINE_EXCEEDED = "DrainDeadlineExceeded"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    QUOTA_EXCEEDED = "QuotaExceeded"
    UNSCHEDULABLE = "Unschedulable"
    PODS_REFUSED = "PodsRefused"
    CRASHING = "Crashing"
    GPU_ERROR = "GpuError"
    KIND_MISSING = "KindMissing"
    FORBIDDEN = "Forbidden"
    API_SERVER_TROUBLE = "ApiServerTrouble"
    SCALED_TO_ZERO = "ScaledToZero"
    METRICS_SEEN = "MetricsSeen"
    METRICS_MISSING = "MetricsMissing"
    METRICS_UNREACHABLE = "MetricsUnreachable"
    METRICS_STALE = "MetricsStale"
    METRICS_INVALID = "MetricsInvalid"
    CLOCK_SKEW = "ClockSkew"
    ENGINE_MODEL_MISSING = "EngineModelMissing"
    SCALING_OFF = "ScalingOff"
    GPU_BUDGET_REACHED = "GpuBudgetReached"
    MAX_REPLICAS_REACHED = "MaxReplicasReached"
    OBJECTIVE_INFEASIBLE = "ObjectiveInfeasible"
    WITHIN_LIMITS = "WithinLimits"
    ENGINE_STANDS_OUT = "EngineStandsOut"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one aspect just now."""

    type: ConditionType
    status: ConditionStatus
    reason: Reason
    message: str = ""


LONGEST_MESSAGE = 4096
"""Characters of a message that the schema allows; longer ones are cut."""


def merge(
    current: Sequence[Condition], findings: Iterable[Finding], *, now: datetime, generation: int
) -> tuple[Condition, ...]:
    """``current`` with ``findings`` in their places: known types in the order of ConditionType, then others.

    A condition keeps its ``last_transition_time`` as long as its status stays. Types that nothing was found about
    are set to Unknown if they are missing, and else left as they are, with the generation that they were found on.
    """
    merged = {condition.type: condition for condition in current}
    for kind in ConditionType:
        if kind.value not in merged:
            unknown = Finding(kind, ConditionStatus.UNKNOWN, Reason.NOT_OBSERVED_YET)
            merged[kind.value] = _condition(unknown, None, now, generation)
    for finding in findings:
        merged[finding.type.value] = _condition(finding, merged[finding.type.value], now, generation)
    known = [kind.value for kind in ConditionType]
    others = [name for name in merged if name not in known]
    return tuple(merged[name] for name in (*known, *others))


def _condition(finding: Finding, before: Condition | None, now: datetime, generation: int) -> Condition:
    unchanged = before is not None and before.status is finding.status
    return Condition(
        type=finding.type.value,
        status=finding.status,
        reason=finding.reason.value,
        message=finding.message[:LONGEST_MESSAGE],
        last_transition_time=before.last_transition_time if before is not None and unchanged else now,
        observed_generation=generation,
    )
