"""Which engines serve, and as what: role labels and readiness gates.

Roles are given within a revision, because engines of different revisions never exchange KV blocks: while engines are
replaced, each revision is a small fleet of its own that keeps the ratio as well as its size allows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from paceline.api.wire import Role
from paceline.policy.lifecycle.actions import Action, BeginRoleChange, OpenGate, SetRole
from paceline.policy.lifecycle.observed import Pod
from paceline.policy.lifecycle.orders import Orders, kept_roles
from paceline.policy.lifecycle.removal import is_idle_by_now
from paceline.policy.lifecycle.view import PoolView
from paceline.policy.roles import EngineRole, assign_roles


def serving_steps(
    view: PoolView, leaving: Collection[str], loads: Mapping[str, float], orders: Orders, now: float
) -> Iterator[Action]:
    """Role labels first: an engine without one must not serve. ``loads`` says what a change would lose, by pod, ``now``
    is in seconds since the epoch.
    """
    working = {pod.name: pod for group in view.groups for pod in group.working if pod.name not in leaving}
    roles = {name: pod.role for name, pod in working.items()}
    for name, role in _roles(view, list(working.values()), loads, orders).items():
        pod = working[name]
        if pod.role is role and pod.next_role is None:
            continue
        if pod.role is role or _may_change(view, pod, role, list(working.values()), now):
            yield SetRole(name, pod.role, role)
            roles[name] = role
        elif pod.next_role is not role or pod.change_started is None:
            # A role that was asked for by hand comes without the time.
            yield BeginRoleChange(name, pod.role, role)
    for name, pod in working.items():
        if roles[name] is not None and pod.serving is not True:
            yield OpenGate(name)


def _may_change(view: PoolView, pod: Pod, role: Role, working: list[Pod], now: float) -> bool:
    """Whether an engine takes its new role now: at once, unless it is to finish first what it has. A role that nobody
    serves does not wait for that.
    """
    serves = pod.role is not None and pod.ready
    if not view.drain_first or view.fixed_role is not None or not serves:
        return True
    if not any(other.role is role and other.ready for other in working):
        return True
    if pod.next_role is not role:
        return False
    since = pod.change_started
    overdue = since is not None and now - since >= view.drain_seconds
    return overdue or is_idle_by_now(view, pod, since, now)


def _roles(view: PoolView, working: list[Pod], loads: Mapping[str, float], orders: Orders) -> dict[str, Role]:
    if view.fixed_role is not None:
        return {pod.name: view.fixed_role for pod in working}
    result: dict[str, Role] = {}
    for revision in sorted({pod.revision for pod in working}):
        fleet = [
            # One that has not taken its new role yet loses least by going back.
            EngineRole(pod.name, pod.aim, -1.0 if pod.next_role is not None else loads.get(pod.name, 0.0))
            for pod in working
            if pod.revision == revision
        ]
        if orders.keeps_roles and not view.rolling:
            result |= kept_roles(fleet, view.wanted, orders.roles)
        else:
            result |= {one.name: one.role for one in fleet if one.role is not None}
            result |= {change.engine: change.after for change in assign_roles(fleet, view.wanted)}
    return result
