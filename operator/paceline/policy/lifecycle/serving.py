"""Which engines serve, and as what: role labels and readiness gates.

Roles are given within a revision, because engines of different revisions never exchange KV blocks: while engines are
replaced, each revision is a small fleet of its own that keeps the ratio as well as its size allows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from paceline.api.wire import Role
from paceline.policy.lifecycle.actions import Action, OpenGate, SetRole
from paceline.policy.lifecycle.observed import Pod
from paceline.policy.lifecycle.orders import Orders, kept_roles
from paceline.policy.lifecycle.view import PoolView
from paceline.policy.roles import EngineRole, assign_roles


def serving_steps(
    view: PoolView, leaving: Collection[str], loads: Mapping[str, float], orders: Orders
) -> Iterator[Action]:
    """Role labels first: an engine without one must not serve. ``loads`` says what a change would lose, by pod."""
    working = [pod for group in view.groups for pod in group.working if pod.name not in leaving]
    roles = {pod.name: pod.role for pod in working}
    for name, role in _roles(view, working, loads, orders).items():
        if roles[name] is not role:
            yield SetRole(name, roles[name], role)
            roles[name] = role
    for pod in working:
        if roles[pod.name] is not None and pod.serving is not True:
            yield OpenGate(pod.name)


def _roles(view: PoolView, working: list[Pod], loads: Mapping[str, float], orders: Orders) -> dict[str, Role]:
    if view.fixed_role is not None:
        return {pod.name: view.fixed_role for pod in working}
    result: dict[str, Role] = {}
    for revision in sorted({pod.revision for pod in working}):
        fleet = [
            EngineRole(pod.name, pod.role, loads.get(pod.name, 0.0)) for pod in working if pod.revision == revision
        ]
        if orders.keeps_roles and not view.rolling:
            result |= kept_roles(fleet, view.wanted, orders.roles)
        else:
            result |= {change.engine: change.after for change in assign_roles(fleet, view.wanted)}
    return result
