"""What one hardware pool looks like to the decisions: its engines by the template that they run, and what is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from paceline.api.wire import Role
from paceline.policy.lifecycle.observed import Pod, Workload

GARBAGE_SECONDS: Final = 60.0
"""Time for the pods of a deleted workload to be deleted too; it takes Kubernetes a second or two."""


@dataclass(frozen=True)
class Group:
    """Engines of one template, and the workload that makes them, if there is one."""

    template: str
    workload: Workload | None
    pods: tuple[Pod, ...]
    """Without those that have finished."""
    strays: frozenset[str] = frozenset()
    """Pods of an earlier workload of the same name that somebody deleted: the present one does not count them, and
    garbage collection is about to take them. Until then they hold accelerators.
    """

    @cached_property
    def live(self) -> tuple[Pod, ...]:
        """Pods that are not being deleted, and will not be without anybody asking."""
        return tuple(pod for pod in self.pods if not pod.deleting and pod.name not in self.strays)

    @cached_property
    def staying(self) -> tuple[Pod, ...]:
        """Live pods that nobody told to drain."""
        return tuple(pod for pod in self.live if not pod.asked_to_drain)

    @cached_property
    def working(self) -> tuple[Pod, ...]:
        """Staying pods whose engine is ready: they serve, or will as soon as they have a role."""
        return tuple(pod for pod in self.staying if pod.containers_ready)

    @cached_property
    def ready(self) -> tuple[Pod, ...]:
        """Staying pods that take requests."""
        return tuple(pod for pod in self.staying if pod.ready)

    @cached_property
    def drained(self) -> tuple[Pod, ...]:
        """Live pods that may go."""
        return tuple(pod for pod in self.live if pod.drained)

    @property
    def replicas(self) -> int:
        """Size that the workload is asked to have."""
        return 0 if self.workload is None or self.workload.deleting else self.workload.replicas

    @property
    def usage(self) -> int:
        """Engines that hold accelerators, or will without anybody doing more."""
        return self.usage_at(0)

    def usage_at(self, replicas: int) -> int:
        """The same, once the workload is asked to have ``replicas`` or more."""
        going = len(self.pods) - len(self.live)
        return max(replicas, self.replicas, len(self.live)) + going

    @property
    def empty(self) -> bool:
        """Whether nothing is left of it but, perhaps, a workload of size 0."""
        return not self.pods and self.replicas == 0


@dataclass(frozen=True)
class PoolView:
    """A pool at one moment."""

    name: str
    template: str
    """Hash of the template that the spec asks for."""
    wanted: Mapping[Role, int]
    """Engines by role."""
    limit: int
    """Most engines that may hold accelerators at once."""
    fixed_role: Role | None
    ordered: bool
    """Whether its workload removes the pod with the highest number, as a LeaderWorkerSet does, not an unready one."""
    start_deadline_seconds: int
    drain_seconds: int
    groups: tuple[Group, ...]
    """One a template, the wanted one first, even if nothing of it exists yet."""
    idle: frozenset[str] = frozenset()
    """Pods that drain, or are to change their role, and said just now that they have nothing in flight."""
    drain_first: bool = False
    """Whether engines finish what they have before they change their role."""

    @property
    def current(self) -> Group:
        """Engines of the wanted template."""
        return self.groups[0]

    @property
    def outdated(self) -> tuple[Group, ...]:
        """Engines of other templates."""
        return self.groups[1:]

    @property
    def total(self) -> int:
        """Engines that are wanted, as far as the limit allows."""
        return min(sum(self.wanted.values()), self.limit)

    @property
    def step(self) -> int:
        """Engines that are replaced at a time: a quarter, at least one."""
        return max(1, self.total // 4)

    @property
    def rolling(self) -> bool:
        """Whether engines of another template are still there."""
        return any(not group.empty for group in self.outdated)

    @property
    def room(self) -> int:
        """Engines that may be started now."""
        return max(0, self.limit - sum(group.usage for group in self.groups))

    def never_ready(self, pod: Pod) -> bool:
        """Whether an engine has not been ready once since its pod was made."""
        return pod.serving is None and not pod.containers_ready

    def overdue(self, now: float) -> tuple[Pod, ...]:
        """Engines that should have been ready by now. ``now`` in seconds since the epoch."""
        return tuple(
            pod
            for group in self.groups
            for pod in group.staying
            if self.never_ready(pod) and now - pod.created >= self.start_deadline_seconds
        )

    def stalled(self, now: float) -> bool:
        """Whether a roll-out must not go on: an engine of the new template did not get ready in time."""
        if not self.rolling:
            return False
        late = {pod.name for pod in self.overdue(now)}
        workload = self.current.workload
        return any(pod.name in late for pod in self.current.staying) or (workload is not None and workload.late)


def group_by_template(
    template: str, workloads: tuple[Workload, ...], pods: tuple[Pod, ...], now: float
) -> tuple[Group, ...]:
    """Groups for :class:`PoolView`: the wanted ``template`` first, then the others by name. ``now`` in seconds since
    the epoch.
    """
    others = {pod.template for pod in pods} | {workload.template for workload in workloads}
    groups = []
    for name in (template, *sorted(others - {template})):
        workload = next((workload for workload in workloads if workload.template == name), None)
        own = tuple(pod for pod in pods if pod.template == name and not pod.finished)
        groups.append(Group(name, workload, own, _strays(workload, own, now)))
    return tuple(groups)


def _strays(workload: Workload | None, pods: tuple[Pod, ...], now: float) -> frozenset[str]:
    """Pods older than a workload that was made just now. Once garbage collection had its time, those that are still
    there were orphaned on purpose, and the workload has adopted them.
    """
    if workload is None or now - workload.created >= GARBAGE_SECONDS:
        return frozenset()
    return frozenset(pod.name for pod in pods if pod.created < workload.created)
