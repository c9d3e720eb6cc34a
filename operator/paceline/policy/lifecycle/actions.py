"""What a pass may ask the controller to do to engines. Every action may be carried out twice without harm."""

from __future__ import annotations

from dataclasses import dataclass

from paceline.api.wire import Role


@dataclass(frozen=True, slots=True)
class BeginRoleChange:
    """Have a pod finish what it has before it changes its role, and write down when that was."""

    pod: str
    before: Role | None
    role: Role


@dataclass(frozen=True, slots=True)
class SetRole:
    """Write the role label of a pod. It is on its way to no other one then."""

    pod: str
    before: Role | None
    role: Role


@dataclass(frozen=True, slots=True)
class OpenGate:
    """Let a pod serve: its readiness gate becomes True."""

    pod: str


@dataclass(frozen=True, slots=True)
class BeginDrain:
    """Tell routers and the engine that this pod is to take no new work, and write down when that was."""

    pod: str
    why: str


@dataclass(frozen=True, slots=True)
class FinishDrain:
    """Take a pod out of service and make it the first that its workload removes."""

    pod: str
    overdue: bool
    """Whether it still had work when its time was over."""


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Have a pod replaced by its workload."""

    pod: str
    uid: str


@dataclass(frozen=True, slots=True)
class SetReplicas:
    """Change the size of a workload that is still at ``version``."""

    kind: str
    workload: str
    version: str
    before: int
    replicas: int


@dataclass(frozen=True, slots=True)
class CreateWorkload:
    """Make the workload of the wanted template in ``pool``."""

    pool: str
    replicas: int


@dataclass(frozen=True, slots=True)
class DeleteWorkload:
    """Remove a workload that has no engines any more."""

    kind: str
    workload: str
    uid: str


Action = (
    BeginRoleChange
    | SetRole
    | OpenGate
    | BeginDrain
    | FinishDrain
    | DeletePod
    | SetReplicas
    | CreateWorkload
    | DeleteWorkload
)
