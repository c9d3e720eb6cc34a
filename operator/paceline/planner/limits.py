"""What keeps a deployment from the engines that it needs, as the condition ``ScalingLimited`` says it. Pure.

Counts only: figures that change with every look are in the decision's own words.
"""

from __future__ import annotations

from paceline.api.conditions import ConditionType, Finding, Reason
from paceline.api.v1alpha1 import ConditionStatus
from paceline.api.wire import Role
from paceline.policy.scaling.decision import Decision, Limit
from paceline.policy.scaling.settings import ScalingSettings

_REASONS = {Limit.GPU_BUDGET: Reason.GPU_BUDGET_REACHED, Limit.MAX_REPLICAS: Reason.MAX_REPLICAS_REACHED}
_FIELDS = {Limit.GPU_BUDGET: "The GPU budget", Limit.MAX_REPLICAS: "maxReplicas"}


def limited(decision: Decision, settings: ScalingSettings) -> Finding | None:
    """The finding about one decision; None where the policy held and knows nothing."""
    why = decision.explanation
    if why.held_because is not None:
        return None
    kind = ConditionType.SCALING_LIMITED
    if why.bound_by in _REASONS:
        needed = []
        for role in settings.pools:
            demands = [demand.engines for demand in why.demands if demand.role is role]
            if None in demands:
                needed.append(f"no number of {role} engines is enough")
            elif demands:
                most = max(engines for engines in demands if engines is not None)
                allowed = decision.engines.of(role)
                needed.append(f"{_engines(most, role)} needed, {allowed} {'is' if allowed == 1 else 'are'} allowed")
        message = f"{_FIELDS[why.bound_by]} is reached: {'; '.join(needed)}." if needed else ""
        return Finding(kind, ConditionStatus.TRUE, _REASONS[why.bound_by], message)
    if any(demand.engines is None for demand in why.demands):
        message = "No number of engines meets the objective for what arrives."
        return Finding(kind, ConditionStatus.TRUE, Reason.OBJECTIVE_INFEASIBLE, message)
    return Finding(kind, ConditionStatus.FALSE, Reason.WITHIN_LIMITS)


def _engines(count: int, role: Role) -> str:
    return f"{count} {role} engine is" if count == 1 else f"{count} {role} engines are"
