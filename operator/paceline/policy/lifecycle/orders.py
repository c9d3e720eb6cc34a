"""What is wanted of the engines of a ModelDeployment at one moment: counts, and, where somebody plans, who does what.

Made by whoever sizes the pools, carried out by the plan of a pass. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from paceline.api import labels
from paceline.api.v1alpha1 import ModelDeployment, ModelDeploymentStatus
from paceline.api.wire import Role
from paceline.policy.lifecycle.observed import Pod, Workload
from paceline.policy.resources import HardwarePool
from paceline.policy.roles import EngineRole, assign_roles


@dataclass(frozen=True, slots=True)
class Situation:
    """What a pass sees, for whoever gives orders."""

    md: ModelDeployment
    pools: Sequence[HardwarePool]
    workloads: Sequence[Workload]
    pods: Sequence[Pod]
    """Of all components."""
    status: ModelDeploymentStatus
    now: float
    """Seconds since the epoch."""
    edited: Mapping[str, int] = field(default_factory=dict)
    """Sizes that somebody gave workloads by hand, by pool."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What a pass is to bring about."""

    counts: Mapping[Role, int]
    """Engines by role, ready or not. Engines that have no role yet take the one that lacks most of it."""
    keeps_roles: bool = False
    """Whether engines keep the role that they have unless ``roles`` says otherwise. Else they are given roles so that
    ``counts`` is met at once.
    """
    roles: Mapping[str, Role] = field(default_factory=dict)
    """Engines that are to change their role, by pod."""
    leaving: frozenset[str] = frozenset()
    """Engines that are to drain and go."""


def standing_counts(situation: Situation, *, totals: Mapping[str, int] | None = None) -> dict[Role, int]:
    """Engines by role that somebody has asked for already, within the bounds of the spec: where to begin, and what to
    hold.

    As many as the workloads are asked to have, without those that are on their way out for good, or ``totals`` by pool;
    in the roles that their labels say, those without one in roles that the status says are missing. While engines are
    replaced the workloads hold more for a time, and the status knows how many there should be. Nothing there yet: the
    minima. A deployment that sleeps goes on sleeping.
    """
    result: dict[Role, int] = {}
    desired = _desired(situation.status)
    for pool in situation.pools:
        own = [one for one in situation.workloads if one.pool == pool.name and not one.deleting]
        heads = [pod for pod in situation.pods if pod.pool == pool.name and pod.component == labels.COMPONENT_ENGINE]
        limits = {bound.role: (bound.minimum, bound.maximum) for bound in pool.bounds}
        if not own:
            counts = {role: desired.get(role, least) for role, (least, _) in limits.items()}
        elif len(own) > 1 and desired:
            counts = {role: desired.get(role, 0) for role in limits}
        else:
            leaving = sum(pod.asked_to_drain and not pod.deleting and not pod.finished for pod in heads)
            most = sum(workload.replicas for workload in own)
            # Some of those that leave are to be replaced, and only the status knows how many.
            total = min(max(sum(desired.get(role, 0) for role in limits), most - leaving, 0), most)
            total = total if totals is None else totals.get(pool.name, total)
            counts = _by_role(heads, limits, desired, total)
        if own and not any(counts.values()) and situation.md.spec.scaling.may_sleep:
            result |= counts
            continue
        result |= {role: min(max(counts[role], least), most) for role, (least, most) in limits.items()}
    return result


def engines_held(situation: Situation) -> int:
    """Engines that hold accelerators, those on their way out too, or will when workloads have made them."""
    pods = [one for one in situation.pods if one.component == labels.COMPONENT_ENGINE and not one.finished]
    going = sum(pod.deleting for pod in pods)
    ordered = sum(one.replicas for one in situation.workloads if one.pool and not one.deleting)
    return max(len(pods) - going, ordered) + going


def kept_roles(fleet: Sequence[EngineRole], wanted: Mapping[Role, int], changes: Mapping[str, Role]) -> dict[str, Role]:
    """The role of each engine that serves: the one it has, the one it was told to change to, or, for those that have
    none or one that is not wanted, the one that lacks most.

    Where that leaves a wanted role without any engine, counts decide (:func:`assign_roles`): a role that nobody serves
    can't wait for the next decision.
    """
    roles = [role for role in Role if wanted.get(role, 0) > 0]
    result = {one.name: changes.get(one.name, one.role) for one in fleet}
    held = {role: sum(has is role for has in result.values()) for role in roles}
    for one in sorted(fleet, key=lambda engine: engine.name):
        if result[one.name] in roles or not roles:
            continue
        role = max(roles, key=lambda role: (wanted[role] - held[role], role is Role.DECODE))
        result[one.name] = role
        held[role] += 1
    if any(not held[role] for role in roles) and fleet:
        known = {one.name: one.role for one in fleet if one.role is not None}
        return known | {change.engine: change.after for change in assign_roles(fleet, wanted)}
    return {name: role for name, role in result.items() if role is not None}


def _desired(status: ModelDeploymentStatus) -> dict[Role, int]:
    roles = status.roles
    if roles is None:
        return {}
    named = {Role.PREFILL: roles.prefill, Role.DECODE: roles.decode, Role.BOTH: roles.both}
    return {role: one.desired for role, one in named.items() if one is not None}


def _by_role(
    pods: Sequence[Pod], limits: Mapping[Role, tuple[int, int]], desired: Mapping[Role, int], total: int
) -> dict[Role, int]:
    """``total`` engines by the labels of those that stay; others where they are missing, or fewer where most are."""
    counts = dict.fromkeys(limits, 0)
    for pod in pods:
        if pod.aim in counts and not (pod.asked_to_drain or pod.deleting or pod.finished):
            counts[pod.aim] += 1
    for _ in range(sum(counts.values()) - total):
        counts[max(counts, key=lambda role: (counts[role] - limits[role][0], role is Role.PREFILL))] -= 1
    for _ in range(total - sum(counts.values())):
        role = max(
            counts,
            key=lambda role: (desired.get(role, limits[role][0]) - counts[role], role is Role.DECODE),
        )
        counts[role] += 1
    return counts
