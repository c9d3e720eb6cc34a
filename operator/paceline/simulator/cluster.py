"""Pods and their roles: what Kubernetes does when a policy asks for other engines. Nothing here decides.

A pod takes a random time to start, may fail to, and holds its accelerators from its creation to its end. An engine that
leaves a role, or goes, first finishes what it has: no request is ever lost to a change of plan.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from paceline.api.wire import Role
from paceline.policy.roles import EngineRole, assign_roles, quotas
from paceline.simulator.engine import SimEngine
from paceline.simulator.events import EventLoop
from paceline.simulator.router import SimRouter
from paceline.simulator.settings import SimSettings

MAX_MARKS: Final = 20_000
"""Changes that are remembered for the plot; all are counted."""


class PodState(StrEnum):
    """Where a pod is in its life."""

    STARTING = "starting"
    READY = "ready"
    CHANGING = "changing"
    """Has a new role that the routers don't know of yet."""
    DRAINING = "draining"


class Change(StrEnum):
    """What happened to a pod."""

    START = "start"
    READY = "ready"
    FLIP = "flip"
    DRAIN = "drain"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Mark:
    """A change, for the plot."""

    at: float
    change: Change
    role: Role | None


class Pod:
    """One engine's pod. ``role`` is the one it has, or will have; None until that is decided."""

    __slots__ = ("created", "engine", "number", "role", "since", "state")

    def __init__(self, number: int, role: Role | None, created: float) -> None:
        self.number = number
        self.role = role
        self.created = created
        self.since = created
        """When its state last changed."""
        self.state = PodState.STARTING
        self.engine: SimEngine | None = None


@dataclass(frozen=True, slots=True)
class Targets:
    """How many engines of each role a policy wants."""

    prefill: int
    decode: int
    flexible: bool = False
    """Whether running engines may change their role, and starting ones get theirs when they are ready."""

    def by_role(self, settings: SimSettings) -> dict[Role, int]:
        """The same by role. Engines that serve both roles count once."""
        if settings.aggregated:
            return {Role.BOTH: self.prefill + self.decode}
        return {Role.PREFILL: self.prefill, Role.DECODE: self.decode}


class Cluster:
    """All pods. ``make_engine`` makes the engine of a pod that is ready."""

    def __init__(
        self,
        settings: SimSettings,
        loop: EventLoop,
        router: SimRouter,
        make_engine: Callable[[int, Role], SimEngine],
        *,
        bill_until: float,
    ) -> None:
        """``bill_until``: accelerator time after this does not count; the load has ended then."""
        self._settings = settings
        self._habits = settings.pods
        self._loop = loop
        self.router = router
        self._make_engine = make_engine
        self._rng = random.Random(f"{settings.seed}/pods")  # noqa: S311 - reproducible, not secret
        self._wanted: Mapping[Role, int] = {}
        self._numbers = 0
        self.pods: dict[int, Pod] = {}
        self.flips = self.starts = self.drains = self.failures = 0
        self.marks: list[Mark] = []
        self.start_seconds = array("d")
        """Start times of the pods that became ready."""
        self.max_gpus = 0
        self._gpu_seconds = 0.0
        self._counted_at = 0.0
        self._bill_until = bill_until
        router.on_empty = self._emptied

    # -- what policies see ------------------------------------------------------------------------------------------

    def count(self, role: Role | None, *states: PodState) -> int:
        """Pods of a role in any of some states."""
        return sum(pod.role is role and pod.state in states for pod in self.pods.values())

    @property
    def now(self) -> float:
        """The present, in seconds since the start."""
        return self._loop.now

    @property
    def flip_seconds(self) -> float:
        """How long a change of role takes to be known."""
        return self._habits.flip_seconds

    @property
    def gpus(self) -> int:
        """Accelerators that are taken now, by starting and draining pods too."""
        return len(self.pods) * self._settings.gpus_per_engine

    @property
    def gpu_seconds(self) -> float:
        """Accelerator time used so far."""
        self._count()
        return self._gpu_seconds

    # -- what policies do -------------------------------------------------------------------------------------------

    def begin(self, counts: Mapping[Role, int]) -> None:
        """The engines that are there, and ready, at the start: as many as bounds and budget allow."""
        settings = self._settings
        self._wanted = counts = {role: settings.bounded(role, count) for role, count in counts.items()}
        for role, count in quotas(settings.gpu_budget // settings.gpus_per_engine, counts).items():
            for _ in range(count):
                pod = self._create(role)
                if pod is not None:
                    self._become_ready(pod)

    def apply(self, targets: Targets) -> None:
        """Go towards some targets: start, drain and, if they allow it, change roles."""
        settings = self._settings
        wanted = {role: settings.bounded(role, count) for role, count in targets.by_role(settings).items()}
        self._wanted = wanted
        if targets.flexible and settings.flexible and not settings.aggregated:
            self._resize(None, list(self._active()), sum(wanted.values()))
            self._change_roles()
        else:
            for role, count in wanted.items():
                self._resize(role, [pod for pod in self._active() if pod.role is role], count)

    def prefer(self, wanted: Mapping[Role, int]) -> None:
        """What pods that are started without a role are to make up."""
        self._wanted = wanted

    def start(self, role: Role | None) -> bool:
        """Create a pod. False if the budget does not allow it."""
        pod = self._create(role)
        if pod is None:
            return False
        self.starts += 1
        self._mark(Change.START, role)
        self._begin_start(pod)
        self._loop.at(self._loop.now + self._habits.start_deadline_seconds, self._give_up, pod)
        return True

    def drain(self, pod: Pod) -> None:
        """Remove a pod: at once if it has not begun to serve, else when it has finished what it has."""
        if pod.state is PodState.DRAINING:
            return
        self.drains += 1
        self._mark(Change.DRAIN, pod.role)
        if pod.engine is None:
            self._delete(pod)
            return
        self._enter(pod, PodState.DRAINING)
        self.router.leave(pod.engine)
        if pod.engine.empty:
            self._delete(pod)

    def flip(self, pod: Pod, role: Role) -> None:
        """Change the role of a ready engine: at once for what comes, while it finishes what it has."""
        if pod.engine is None or pod.state is not PodState.READY or pod.role is role:
            return
        self.flips += 1
        self._mark(Change.FLIP, role)
        self._enter(pod, PodState.CHANGING)
        pod.role = role
        self._loop.at(self._loop.now + self._habits.flip_seconds, self._announced, pod)

    # -- the life of a pod ------------------------------------------------------------------------------------------

    def _create(self, role: Role | None) -> Pod | None:
        if self.gpus + self._settings.gpus_per_engine > self._settings.gpu_budget:
            return None
        self._count()
        pod = Pod(self._numbers, role, self._loop.now)
        self._numbers += 1
        self.pods[pod.number] = pod
        self.max_gpus = max(self.max_gpus, self.gpus)
        return pod

    def _begin_start(self, pod: Pod) -> None:
        seconds = self._rng.lognormvariate(self._habits.start_mu, self._habits.start_sigma)
        fails = self._rng.random() < self._habits.start_failure
        self._loop.at(self._loop.now + seconds, self._start_failed if fails else self._started, pod)

    def _start_failed(self, pod: Pod) -> None:
        if pod.number in self.pods:
            self.failures += 1
            self._mark(Change.FAILED, pod.role)
            self._begin_start(pod)

    def _started(self, pod: Pod) -> None:
        if pod.number in self.pods:
            self.start_seconds.append(self._loop.now - pod.created)
            self._become_ready(pod)

    def _give_up(self, pod: Pod) -> None:
        if pod.number in self.pods and pod.state is PodState.STARTING:
            self._mark(Change.FAILED, pod.role)
            self._delete(pod)

    def _become_ready(self, pod: Pod) -> None:
        role = pod.role = pod.role or self._missing_role()
        self._enter(pod, PodState.READY)
        pod.engine = self._make_engine(pod.number, role)
        self._mark(Change.READY, role)
        self.router.add(pod.engine)

    def _enter(self, pod: Pod, state: PodState) -> None:
        pod.state = state
        pod.since = self._loop.now

    def _missing_role(self) -> Role:
        """What a pod without a role is to be: the role that lacks most of what is wanted of it."""
        there = (PodState.READY, PodState.CHANGING)
        return max(
            self._wanted,
            key=lambda role: (self._wanted[role] - self.count(role, *there), role is Role.DECODE),
            default=Role.BOTH if self._settings.aggregated else Role.DECODE,
        )

    def _announced(self, pod: Pod) -> None:
        """The routers know of a new role."""
        if pod.state is PodState.CHANGING and pod.engine is not None and pod.role is not None:
            pod.engine.role = pod.role
            self._enter(pod, PodState.READY)
            self.router.add(pod.engine)

    def _emptied(self, engine: SimEngine) -> None:
        pod = self.pods.get(engine.number)
        if pod is not None and pod.state is PodState.DRAINING and engine.empty:
            self._delete(pod)

    def _delete(self, pod: Pod) -> None:
        self._count()
        del self.pods[pod.number]
        if pod.engine is not None:
            self.router.remove(pod.engine)

    # -- towards targets --------------------------------------------------------------------------------------------

    def _active(self) -> Iterable[Pod]:
        return (pod for pod in self.pods.values() if pod.state is not PodState.DRAINING)

    def _resize(self, role: Role | None, pods: Sequence[Pod], count: int) -> None:
        for _ in range(count - len(pods)):
            if not self.start(role):
                return
        if len(pods) > count:
            for pod in sorted(pods, key=self._to_lose)[: len(pods) - count]:
                self.drain(pod)

    def _to_lose(self, pod: Pod) -> tuple[bool, int, float, int]:
        """Order of removal: starting pods first, then roles that have too many, then by load."""
        if pod.engine is None or pod.role is None:
            return (False, 0, 0.0, -pod.number)
        surplus = self.count(pod.role, PodState.READY, PodState.CHANGING) - self._wanted.get(pod.role, 0)
        return (True, -surplus, self._load(pod), pod.number)

    def _load(self, pod: Pod) -> float:
        return 0.0 if pod.engine is None else float(pod.engine.running + pod.engine.waiting + pod.engine.incoming)

    def _change_roles(self) -> None:
        there = [pod for pod in self.pods.values() if pod.state in (PodState.READY, PodState.CHANGING)]
        engines = [EngineRole(f"{pod.number:09d}", pod.role, self._load(pod)) for pod in there]
        for change in assign_roles(engines, self._wanted):
            self.flip(self.pods[int(change.engine)], change.after)

    # -- accounts ---------------------------------------------------------------------------------------------------

    def _count(self) -> None:
        now = min(self._loop.now, self._bill_until)
        if now > self._counted_at:
            self._gpu_seconds += self.gpus * (now - self._counted_at)
            self._counted_at = now

    def _mark(self, change: Change, role: Role | None) -> None:
        if len(self.marks) < MAX_MARKS:
            self.marks.append(Mark(self._loop.now, change, role))
