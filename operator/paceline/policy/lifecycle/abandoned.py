"""Pools that the spec no longer names: their engines serve until those of the other pools do, then drain and go.

It happens when a role gets hardware of its own, or gives it up: the pools have other names then, and nothing but this
module remembers the engines of the old ones. Called by the plan.
"""

from __future__ import annotations

from collections.abc import Sequence

from paceline.policy.lifecycle.sizes import Sizes, choose_leaving
from paceline.policy.lifecycle.view import PoolView


def plan_abandoned(views: Sequence[PoolView], successors: Sequence[PoolView]) -> tuple[Sizes, ...]:
    """For each abandoned pool of ``views``, how many engines stay for now, and which are to drain."""
    wanted = sum(sum(successor.wanted.values()) for successor in successors)
    missing = wanted - sum(len(successor.current.ready) for successor in successors)
    if any(_starved(successor) for successor in successors):
        # Nothing can start before something has gone: make room for one step, not for everything.
        missing -= max(1, wanted // 4)
    stay = [sum(len(group.working) for group in view.groups) for view in views]
    for _ in range(sum(stay) - max(0, missing)):
        # The largest first, so that the roles shrink in step.
        stay[stay.index(max(stay))] -= 1
    return tuple(_sizes(view, count) for view, count in zip(views, stay, strict=True))


def _sizes(view: PoolView, stay: int) -> Sizes:
    """Keep ``stay`` of the engines that work, and none that doesn't."""
    working = [pod for group in view.groups for pod in group.working]
    broken = [pod for group in view.groups for pod in group.staying if not pod.containers_ready]
    leaving = (*broken, *choose_leaving(working, len(working) - stay, {}, ordered=view.ordered))
    names = {pod.name for pod in leaving}
    keep = {group.template: sum(pod.name not in names for pod in group.staying) for group in view.groups}
    return Sizes(keep, dict.fromkeys((pod.name for pod in leaving), "the spec has no such pool any more"))


def _starved(view: PoolView) -> bool:
    """Whether a pool has no room for engines that it is to have."""
    return sum(group.usage for group in view.groups) < sum(view.wanted.values()) and view.room == 0
