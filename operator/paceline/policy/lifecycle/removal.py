"""How an engine leaves without losing a request: told to drain, waited for, out of service, and only then removed.

The order is that of the design: stop new work, wait until nothing is in flight and no KV transfer is pending, gate
False and deletion cost, a moment for the workload to see it, lower ``replicas``. A ReplicaSet removes unready pods
first, so the drained pod is the one that goes; if it takes another one that was unready too, the drained pod is deleted
by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from paceline.policy.lifecycle.actions import (
    Action,
    BeginDrain,
    CreateWorkload,
    DeletePod,
    DeleteWorkload,
    FinishDrain,
    SetReplicas,
)
from paceline.policy.lifecycle.observed import Pod
from paceline.policy.lifecycle.sizes import Sizes
from paceline.policy.lifecycle.view import Group, PoolView

ROUTERS_LEARN_SECONDS: Final = 2.0
"""Time for every router to see a drain before "nothing in flight" is believed."""
WORKLOADS_LEARN_SECONDS: Final = 2.0
"""Time for the workload to see that an engine is out of service before it is told to be smaller: one that has not seen
it removes another.
"""


def drain_steps(view: PoolView, sizes: Sizes, now: float) -> Iterator[Action]:
    """Begin and finish drains. ``now`` in seconds since the epoch."""
    for group in view.groups:
        for pod in group.live:
            if pod.name in sizes.leaving:
                yield BeginDrain(pod.name, sizes.leaving[pod.name])
            elif pod.asked_to_drain and pod.drain_started is None:
                yield BeginDrain(pod.name, "its annotation was set by hand")
            elif pod.asked_to_drain and not _taken_out(pod):
                idle = _is_idle(view, pod, now)
                if idle or is_overdue(view, pod, now):
                    yield FinishDrain(pod.name, overdue=not idle)


def is_idle_by_now(view: PoolView, pod: Pod, since: float | None, now: float) -> bool:
    """Whether a pod that is to get nothing new ``since`` then has nothing in flight, and every router knows it."""
    return since is not None and now - since >= ROUTERS_LEARN_SECONDS and pod.name in view.idle


def is_overdue(view: PoolView, pod: Pod, now: float) -> bool:
    """Whether a draining pod had its time."""
    return pod.drain_started is not None and now - pod.drain_started >= view.drain_seconds


def resize_steps(view: PoolView, sizes: Sizes, now: float) -> Iterator[Action]:
    """Make workloads as large as they should be: smaller ones first, to have room for larger ones. ``now`` in seconds
    since the epoch.
    """
    gone = {group.template: [pod for pod in group.drained if may_go(pod, now)] for group in view.groups}
    targets = {
        group.template: _target(group, sizes.keep.get(group.template, 0), gone[group.template]) for group in view.groups
    }
    for group in (*view.outdated, view.current):
        yield from _shrink(group, targets[group.template], gone[group.template])
    for group in view.groups:
        workload, target = group.workload, targets[group.template]
        if workload is None:
            if group is view.current and view.wanted:
                yield CreateWorkload(view.name, sizes.keep[group.template])
        elif target > workload.replicas and not workload.deleting:
            yield SetReplicas(workload.kind, workload.name, workload.version, workload.replicas, target)
    for group in view.outdated:
        if group.empty and group.workload is not None and not group.workload.deleting:
            yield DeleteWorkload(group.workload.kind, group.workload.name, group.workload.uid)


def may_go(pod: Pod, now: float) -> bool:
    """Whether a drained engine has been out of service for long enough that its workload has seen it."""
    return pod.gate_changed is None or not 0 <= now - pod.gate_changed < WORKLOADS_LEARN_SECONDS


def _target(group: Group, keep: int, gone: Sequence[Pod]) -> int:
    """Size of a workload: what is to be kept, and what may not go yet. Counted from the pods that are there, so that a
    second look before the workload has acted comes to the same size.
    """
    return max(keep, len(group.live) - len(gone))


def _shrink(group: Group, target: int, gone: Sequence[Pod]) -> Iterator[Action]:
    workload = group.workload
    if workload is not None and not workload.deleting and target < workload.replicas:
        yield SetReplicas(workload.kind, workload.name, workload.version, workload.replicas, target)
        return
    # What the workload won't remove by itself: a pod whose place is still wanted, or whose workload is gone.
    leftover = len(gone) - (max(0, len(group.live) - group.replicas) if workload is not None else 0)
    for pod in sorted(gone, key=lambda pod: pod.name)[: max(0, leftover)]:
        yield DeletePod(pod.name, pod.uid)


def _taken_out(pod: Pod) -> bool:
    return pod.serving is False and pod.cheap_to_delete


def _is_idle(view: PoolView, pod: Pod, now: float) -> bool:
    return view.never_ready(pod) or is_idle_by_now(view, pod, pod.drain_started, now)
